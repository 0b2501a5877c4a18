package chaos

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/test/instance"
)

// limit bounds every wait.
const limit = 40 * time.Second

//go:embed pods.yaml
var manifests string

// life is one life of the Pods, with one death of the daemon in it.
type life struct {
	t              *testing.T
	pod            *instance.Instance
	armed, unarmed []string // the environment until the fault, and after it
	fired, stays   bool     // the daemon has ended at the fault; it is not brought up again
	journal        string   // the folder where the Pods' containers write down what they do
	client         kubernetes.Interface
}

func (l *life) fatalf(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf(format+"\npeapod's log:\n%s", append(args, l.pod.Log())...)
}

// wait tries until ok, whatever the daemon does meanwhile.
func (l *life) wait(what string, try func(ctx context.Context) error) {
	l.t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		l.revive()
		ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
		err = try(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	l.fatalf("cannot %s within %v: %v", what, limit, err)
}

// begin brings the daemon up and makes the Pods.
func (l *life) begin() {
	l.journal = filepath.Join(l.pod.Dir, "journal")
	if err := errors.Join(os.RemoveAll(l.journal), os.Mkdir(l.journal, 0o777)); err != nil {
		l.t.Fatal(err)
	}
	if err := l.up(l.armed); err != nil {
		l.fatalf("%v", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", l.pod.Kubeconfig())
	if err != nil {
		l.t.Fatal(err)
	}
	if l.client, err = kubernetes.NewForConfig(config); err != nil {
		l.t.Fatal(err)
	}
	pods := l.client.CoreV1().Pods("default")

	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(strings.ReplaceAll(manifests, "JOURNAL", l.journal)), 4096)
	for {
		var pod v1.Pod
		if err := decoder.Decode(&pod); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			l.t.Fatal(err)
		}
		l.wait("create pod "+pod.Name, func(ctx context.Context) error {
			_, err := pods.Create(ctx, &pod, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) || l.stays && l.fired { // the daemon died before it had answered
				return nil
			}
			return err
		})
	}
}

func (l *life) run() {
	defer func() {
		if err := l.pod.Stop(syscall.SIGTERM); err != nil {
			l.t.Error(err)
		}
	}()
	l.begin()
	pods := l.client.CoreV1().Pods("default")
	l.wait("see the pods run", l.running)
	l.restart()
	l.wait("see the pods run after another daemon's death", l.running)
	l.logs()
	l.wait("delete the pods", func(ctx context.Context) error {
		return pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	l.wait("see the pods gone", func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left: %s", len(list.Items), list.Items[0].Name)
		}
		return err
	})
	l.written()
	l.wait("see nothing left", func(context.Context) error { return l.left() })
}

// running tells whether every Pod is where it comes to if no run of a container is lost and none is too many.
func (l *life) running(ctx context.Context) error {
	list, err := l.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		pod := &list.Items[i]
		status := func(name string) v1.ContainerStatus {
			s, _ := podutil.GetContainerStatus(append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...), name)
			return s
		}
		restarts, c := int32(0), status("app")
		switch pod.Name {
		case "crashing":
			restarts = 1
			if end := c.LastTerminationState.Terminated; end == nil || end.ExitCode != 3 || end.Message != "third" {
				err = errors.Join(err, fmt.Errorf("crashing: last state %+v", end))
			}
		case "job":
			if end := c.State.Terminated; end == nil || end.ExitCode != 7 || pod.Status.Phase != v1.PodFailed {
				err = errors.Join(err, fmt.Errorf("job: phase %s, state %+v", pod.Status.Phase, c.State))
			}
			if end := status("first").State.Terminated; end == nil || end.ExitCode != 0 {
				err = errors.Join(err, fmt.Errorf("job: init container %+v", status("first").State))
			}
		}
		if _, ready := podutil.GetPodCondition(&pod.Status, v1.PodReady); pod.Name != "job" && (ready == nil || ready.Status != v1.ConditionTrue) {
			err = errors.Join(err, fmt.Errorf("%s: phase %s, condition Ready %+v, state %+v", pod.Name, pod.Status.Phase, ready, c.State))
		}
		if c.RestartCount > restarts {
			l.fatalf("%s: restart count %d, last state %+v", pod.Name, c.RestartCount, c.LastTerminationState)
		}
		if c.RestartCount < restarts {
			err = errors.Join(err, fmt.Errorf("%s: restart count %d", pod.Name, c.RestartCount))
		}
	}
	if len(list.Items) != 4 {
		err = errors.Join(err, fmt.Errorf("%d pods", len(list.Items)))
	}
	return err
}

// logs checks that no line of a log is missing.
func (l *life) logs() {
	for name, want := range map[string]string{"crashing -p": "run 1\nlast words\n", "crashing": "run 2\n", "job": "begin\nend\n"} {
		l.wait("read the log of "+name, func(ctx context.Context) error {
			pod, previous := strings.CutSuffix(name, " -p")
			got, err := l.client.CoreV1().Pods("default").GetLogs(pod, &v1.PodLogOptions{Container: "app", Previous: previous}).DoRaw(ctx)
			if err == nil && string(got) != want {
				l.fatalf("the log of %s is %q, want %q", name, got, want)
			}
			return err
		})
	}
	l.wait("read the log of steady", func(ctx context.Context) error {
		got, err := l.client.CoreV1().Pods("default").GetLogs("steady", &v1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return err
		}
		for i, line := range bytes.Split(bytes.TrimSpace(got), []byte("\n")) {
			if string(line) != strconv.Itoa(i+1) {
				l.fatalf("line %d of the log of steady is %q", i+1, line)
			}
		}
		return nil
	})
}

// written checks what the containers have written down.
func (l *life) written() {
	lines := func(file string) int {
		data, err := os.ReadFile(filepath.Join(l.journal, file))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			l.t.Error(err)
		}
		return bytes.Count(data, []byte("\n"))
	}
	for file, want := range map[string]int{ // a container that ran twice, at once or one after the other, has a line too many
		"steady.runs":   1,
		"steady.bye":    1, // it had its grace period
		"shared.runs":   1,
		"crashing.runs": 2,
		"job.runs":      1,
		"first.runs":    1,
	} {
		if got := lines(file); got != want {
			l.t.Errorf("%s has %d lines, want %d", file, got, want)
		}
	}
	// Hooks are delivered at least once.
	for _, file := range []string{"steady.poststart", "steady.prestop"} {
		if got := lines(file); got < 1 || got > 2 {
			l.t.Errorf("%s has %d lines, want 1, or 2 after a crash", file, got)
		}
	}
}

// left is an error that names what the Pods have left on the machine.
func (l *life) left() error {
	script := `
		ls -d "$1"/data/engine/sandboxes/* "$1"/data/engine/containers/* "$1"/run/engine/sandboxes/* "$1"/run/engine/containers/* \
			"$1"/run/engine/crun/* "$1"/data/engine/network/*.json "$1"/data/pods/* "$1"/data/log/pods/* "$1"/storage/overlay-containers/*/ 2>/dev/null
		find /sys/fs/cgroup -type d -path "*/$2/*" ! -name monitors ! -name burstable ! -name besteffort
		awk '{ print $5 }' /proc/self/mountinfo | grep "^$1/" | grep -vx -e "$1/run" -e "$1/storage/overlay"
		grep -lazE "^$1/(run|data)" /proc/[0-9]*/cmdline | while read f; do tr '\0' ' ' <"$f"; done 2>/dev/null | grep conmon
		true`
	out, err := exec.Command("sh", "-c", script, "sh", l.pod.Dir, filepath.Base(l.pod.Cgroup())).Output()
	if err != nil {
		return err
	}
	if len(out) > 0 {
		return fmt.Errorf("left on the machine:\n%s", out)
	}
	return nil
}
