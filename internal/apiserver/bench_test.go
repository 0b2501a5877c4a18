package apiserver_test

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// BenchmarkBoot is from nothing to ready and back, etcd included, on a fresh folder and then on one that has been used.
func BenchmarkBoot(b *testing.B) {
	used := b.TempDir()
	for b.Loop() {
		for name, dir := range map[string]string{"first": b.TempDir(), "again": used} {
			begin := time.Now()
			_, stop := run(b, dir)
			b.ReportMetric(float64(time.Since(begin).Milliseconds()), name+"-ms")
			stop()
		}
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

// BenchmarkMemory is what the process has resident after boot, by /proc/self/status.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		_, stop := run(b, b.TempDir())
		debug.FreeOSMemory()
		status, err := os.ReadFile("/proc/self/status")
		stop()
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			if f[0] != "RssAnon:" && f[0] != "RssFile:" {
				continue
			}
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(kib)/1024, strings.TrimSuffix(f[0], ":")+"-MiB")
		}
	}
}
