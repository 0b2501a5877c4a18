package apiserver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// BenchmarkBoot is from nothing to ready, etcd included, on a fresh folder and then on one that has been used.
func BenchmarkBoot(b *testing.B) {
	for name, fresh := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				b.Run("", func(b *testing.B) {
					if fresh {
						dir = b.TempDir()
					}
					start(b, dir)
				})
			}
		})
	}
}

// BenchmarkRequests are the requests on the way of a Pod from create to Ready, writes with their sync to disk.
func BenchmarkRequests(b *testing.B) {
	s := start(b, b.TempDir())
	for name, c := range map[string]kubernetes.Interface{
		"tls": admin(b, s), "in process": kubernetes.NewForConfigOrDie(s.LoopbackConfig()),
	} {
		ns := namespace(b, c, nil)
		pods := c.CoreV1().Pods(ns)
		ctx := b.Context()
		b.Run("create pod "+name, func(b *testing.B) {
			for b.Loop() {
				pod := newPod("")
				pod.GenerateName = "p-"
				createPod(b, c, ns, pod)
			}
		})
		createPod(b, c, ns, newPod("web"))
		b.Run("patch status "+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				patch := fmt.Appendf(nil, `{"status":{"podIP":"10.88.%d.%d"}}`, i>>8%256, i%256)
				if _, err := pods.Patch(ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("get pod "+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := pods.Get(ctx, "web", metav1.GetOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("bind "+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				pod := newPod("")
				pod.GenerateName = "b-"
				pod = createPod(b, c, ns, pod)
				b.StartTimer()
				err := pods.Bind(ctx, &corev1.Binding{
					ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"},
				}, metav1.CreateOptions{})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestMemory prints what the server and etcd take after boot; run it alone.
func TestMemory(t *testing.T) {
	start(t, filepath.Join(t.TempDir()))
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "Rss") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
