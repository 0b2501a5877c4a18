package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/hook"
	"peapod.dev/peapod/internal/agent/plan"
)

// bench is one Worker in a bubble of its own time, over fakes.
type bench struct {
	t      *testing.T
	engine *fakeEngine
	fakes  *fakes
	client *fake.Clientset
	events *record.FakeRecorder
	worker *Worker
	pod    *v1.Pod
	end    func() // ends the worker
}

func run(t *testing.T, edit func(*v1.Pod), body func(*bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		pod := &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID("uid"), ResourceVersion: "1"},
			Spec: v1.PodSpec{
				RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(30)),
				Containers: []v1.Container{{Name: "app", Image: "docker.io/library/x:1", ImagePullPolicy: v1.PullIfNotPresent}},
			},
			Status: v1.PodStatus{Phase: v1.PodPending},
		}
		if edit != nil {
			edit(pod)
		}
		b := &bench{t: t, pod: pod, client: fake.NewClientset(pod), events: record.NewFakeRecorder(100)}
		b.engine = &fakeEngine{images: map[string]bool{"docker.io/library/x:1": true}, changed: func() { b.worker.Poke() }}
		b.fakes = &fakes{}
		config := Config{
			Engine: b.engine, Volumes: b.fakes, Specs: b.fakes, Hooks: hook.New(hook.Config{Log: slog.New(slog.DiscardHandler)}),
			Probes: b.fakes, Client: b.client, Events: b.events,
			HostIPs: func() []string { return []string{"192.0.2.1"} },
			Credentials: func(context.Context, *v1.Pod, string) ([]*runtimeapi.AuthConfig, []string, error) {
				return nil, []string{"gone"}, nil
			},
			Fits:   func(*v1.Pod) *plan.Failure { return nil },
			PodDir: func(types.UID) string { return dir }, Log: slog.New(slog.DiscardHandler),
		}
		b.start(config)
		defer func() { b.end() }()
		b.pass(0)
		body(b)
	})
}

// start runs a new worker, which prepare sees first.
func (b *bench) start(config Config, prepare ...func(*Worker)) {
	b.worker = New(config, b.pod)
	for _, p := range prepare {
		p(b.worker)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	w := b.worker
	go func() { defer close(done); w.Run(ctx) }()
	b.end = func() { cancel(); <-done }
}

// crash puts a new worker in the place of the old one, which can record nothing more once its context has ended.
func (b *bench) crash() {
	b.end()
	b.pod = b.worker.Pod()
	b.start(b.worker.cfg)
	b.pass(0)
}

// pass lets time go by and everything settle.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) remove(grace int64) {
	pod := b.pod.DeepCopy()
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	pod.ResourceVersion = "2"
	b.pod = pod
	b.worker.Update(pod)
	b.pass(0)
}

func (b *bench) wantLog(want ...string) {
	b.t.Helper()
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	if !slices.Equal(b.engine.log, want) {
		b.t.Errorf("the engine did\n  %s\nwant\n  %s", strings.Join(b.engine.log, "\n  "), strings.Join(want, "\n  "))
	}
}

func (b *bench) status() v1.PodStatus { return b.worker.Pod().Status }

func (b *bench) waiting() string {
	if s := b.status().ContainerStatuses; len(s) > 0 && s[0].State.Waiting != nil {
		return s[0].State.Waiting.Reason
	}
	return ""
}

func (b *bench) wantEvent(text string) {
	b.t.Helper()
	for {
		select {
		case e := <-b.events.Events:
			if strings.Contains(e, text) {
				return
			}
		default:
			b.t.Errorf("no event says %q", text)
			return
		}
	}
}

func TestRunsAndReports(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.wantLog("sandbox", "create app-0", "start app-0")
		if s := b.status(); s.Phase != v1.PodRunning || s.PodIP != "10.0.0.9" || !s.ContainerStatuses[0].Ready {
			t.Errorf("status is %+v", s)
		}
		got, err := b.client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil || got.Status.Phase != v1.PodRunning {
			t.Errorf("the API server was told %v, %v", got.Status.Phase, err)
		}
	})
}

func lifecycle(p *v1.Pod) {
	handler := func(name string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{name}}}
	}
	p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: handler("postStart"), PreStop: handler("preStop")}
}

func TestHooksSurroundALife(t *testing.T) {
	run(t, lifecycle, func(b *bench) {
		b.remove(5)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "hook app-0 postStart", "hook app-0 preStop", "stop app-0 timeout=5", "stop sandbox")
		if _, err := b.client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{}); err == nil {
			t.Error("the API object of an ended pod is still there")
		}
	})
}

func TestPreStopCountsInTheGracePeriod(t *testing.T) {
	run(t, lifecycle, func(b *bench) {
		b.engine.hook = 8 * time.Second
		b.remove(10)
		b.pass(9 * time.Second)
		if last := b.engine.log[len(b.engine.log)-2]; last != "stop app-0 timeout=2" {
			t.Errorf("after a hook of 8 s of 10 the engine did %q", last)
		}
	})
}

func TestPreStopThatOverrunsIsCutOffAndTwoSecondsAreLeft(t *testing.T) {
	run(t, lifecycle, func(b *bench) {
		b.engine.hook = time.Hour
		b.engine.deaf = true
		b.remove(3)
		b.pass(4 * time.Second)
		if last := b.engine.log[len(b.engine.log)-1]; last != "stop app-0 timeout=2" {
			t.Errorf("after the grace period the engine did %q", last)
		}
		b.pass(2 * time.Second)
		if s := b.status().ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 137 {
			t.Errorf("the container is %+v", b.status().ContainerStatuses[0].State)
		}
	})
}

func TestAShorterGraceShortensAKillUnderWay(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.engine.deaf = true
		b.remove(600)
		b.pass(time.Second)
		b.remove(4)
		b.pass(5 * time.Second)
		if s := b.status().ContainerStatuses[0].State.Terminated; s == nil {
			t.Error("a container lives on after the shortened grace period")
		}
	})
}

func TestFailedPostStartKillsTheContainer(t *testing.T) {
	run(t, func(p *v1.Pod) {
		lifecycle(p)
		p.Spec.Containers[0].Lifecycle.PreStop = nil
	}, func(b *bench) {
		b.engine.hookErr = errors.New("no")
		b.engine.exit("app-0", 1)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "hook app-0 postStart",
			"create app-1", "start app-1", "hook app-1 postStart", "stop app-1 timeout=30")
		b.wantEvent("FailedPostStartHook")
		if got := b.waiting(); got != "PostStartHookError" {
			t.Errorf("waiting reason is %q", got)
		}
	})
}

func TestAPostStartHookHoldsUpTheNextContainer(t *testing.T) {
	run(t, func(p *v1.Pod) {
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name = "second"
		lifecycle(p)
		p.Spec.Containers = append(p.Spec.Containers, second)
	}, func(b *bench) {
		b.engine.hook = 3 * time.Second
		b.engine.exit("app-0", 1) // the first hook had taken no time
		b.engine.exit("second-0", 1)
		b.pass(2 * time.Second)
		before := []string{"sandbox", "create app-0", "start app-0", "hook app-0 postStart", "create second-0", "start second-0",
			"create app-1", "start app-1", "hook app-1 postStart"}
		b.wantLog(before...)
		b.pass(time.Second)
		b.wantLog(append(before, "create second-1", "start second-1")...)
	})
}

func TestContainersStartInOrder(t *testing.T) {
	run(t, func(p *v1.Pod) {
		for _, name := range []string{"second", "third"} {
			c := *p.Spec.Containers[0].DeepCopy()
			c.Name = name
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}, func(b *bench) {
		var starts []string
		for _, line := range b.engine.log {
			if strings.HasPrefix(line, "start ") {
				starts = append(starts, line)
			}
		}
		if want := []string{"start app-0", "start second-0", "start third-0"}; !slices.Equal(starts, want) {
			t.Errorf("containers started in the order %v", starts)
		}
	})
}

func TestLongestBackOff(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.worker.cfg.MaxRestartPeriod = 2 * time.Second
		for i := range 4 {
			b.engine.exit(fmt.Sprintf("app-%d", i), 1)
			b.pass(2 * time.Second)
		}
		if s := b.status().ContainerStatuses[0]; s.State.Running == nil || s.RestartCount != 4 {
			t.Errorf("with back-offs of 2 s at most the container is %+v", s)
		}
	})
}

func TestBackOffIsShown(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.engine.exit("app-0", 1)
		b.pass(0) // the first restart is immediate
		b.engine.exit("app-1", 1)
		b.pass(2 * time.Second)
		if got := b.waiting(); got != "CrashLoopBackOff" {
			t.Errorf("waiting reason is %q", got)
		}
		b.wantEvent("Back-off restarting failed container app in pod p_ns(uid)")
		b.pass(9 * time.Second)
		if s := b.status().ContainerStatuses[0]; s.State.Running == nil || s.RestartCount != 2 {
			t.Errorf("after the back-off the container is %+v", s)
		}
	})
}

func TestImageThatIsNeverPulled(t *testing.T) {
	run(t, func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nosuch", v1.PullNever
	}, func(b *bench) {
		if got := b.waiting(); got != "ErrImageNeverPull" {
			t.Errorf("waiting reason is %q", got)
		}
		b.wantEvent(`Container image "nosuch" is not present with pull policy of Never`)
		b.pass(5 * time.Minute)
		b.engine.mu.Lock()
		b.engine.images["docker.io/library/nosuch:latest"] = true
		b.engine.mu.Unlock()
		b.pass(10 * time.Second)
		if s := b.status().ContainerStatuses[0]; s.State.Running == nil {
			t.Errorf("10 s after its image was loaded the container is %+v", s.State)
		}
	})
}

func TestLocalImageStandsInForARegistryThatIsOut(t *testing.T) {
	for code, want := range map[codes.Code]string{codes.Unavailable: "", codes.NotFound: "ErrImagePull"} {
		run(t, func(p *v1.Pod) {
			p.Spec.Containers[0].ImagePullPolicy = v1.PullAlways
			p.Spec.Containers[0].Image = "docker.io/library/x:1"
		}, func(b *bench) {
			// The first pull succeeded; the restart asks again.
			b.engine.mu.Lock()
			b.engine.pullErr = grpcstatus.Error(code, "no answer")
			b.engine.mu.Unlock()
			b.engine.exit("app-0", 1)
			b.pass(0)
			if want != "" {
				b.wantEvent("Unable to retrieve some image pull secrets (gone); attempting")
			}
			if got := b.waiting(); got != want {
				t.Errorf("%v: waiting reason is %q, want %q", code, got, want)
			}
		})
	}
}

func TestNothingIsLeftOfAPodThatIsGone(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.worker.Delete()
		b.pass(3 * time.Second)
		if len(b.engine.sandboxes)+len(b.engine.containers) != 0 {
			t.Errorf("left: %v %v", b.engine.sandboxes, b.engine.containers)
		}
	})
}
