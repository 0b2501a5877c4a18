package probe

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// script is an engine whose commands do what the test says, by command name.
type script struct {
	mu   sync.Mutex
	do   func(ctx context.Context, command string, nth int) (exitCode int32, err error)
	runs map[string][]time.Time
}

func (s *script) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	s.mu.Lock()
	command := req.Cmd[0]
	s.runs[command] = append(s.runs[command], time.Now())
	nth := len(s.runs[command])
	s.mu.Unlock()
	code, err := s.do(ctx, command, nth)
	return &runtimeapi.ExecSyncResponse{ExitCode: code, Stdout: []byte("said " + command)}, err
}

// at lists when a command ran, in whole milliseconds after start.
func (s *script) at(command string, start time.Time) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ms []int
	for _, t := range s.runs[command] {
		ms = append(ms, int(t.Sub(start).Milliseconds()))
	}
	return ms
}

type bench struct {
	*Manager
	engine  *script
	events  *record.FakeRecorder
	mu      sync.Mutex
	results []string
	start   time.Time
}

// run calls test in a bubble of fake time with a Manager that runs.
func run(t *testing.T, do func(ctx context.Context, command string, nth int) (int32, error), test func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{engine: &script{do: do, runs: map[string][]time.Time{}}, events: record.NewFakeRecorder(100), start: time.Now()}
		b.Manager = New(Config{Engine: b.engine, Recorder: b.events, OnResult: func(r Result) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.results = append(b.results, r.Kind.String()+" "+r.Outcome.String())
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { b.Run(ctx) })
		test(b)
		cancel()
		wg.Wait()
	})
}

func (b *bench) wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (b *bench) wantResults(t *testing.T, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.results, want) {
		t.Errorf("results %q, want %q", b.results, want)
	}
}

func (b *bench) wantOutcome(t *testing.T, kind Kind, want Outcome) {
	t.Helper()
	if got, ok := b.Get("u", "id1", kind); !ok || got != want {
		t.Errorf("%v is %v (%v), want %v", kind, got, ok, want)
	}
}

func execProbe(command string, period, timeout, failures int32) *v1.Probe {
	return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{command}}},
		PeriodSeconds: period, TimeoutSeconds: timeout, FailureThreshold: failures, SuccessThreshold: 1}
}

func podWith(c v1.Container) *v1.Pod {
	c.Name = "app"
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{c}}}
}

func (b *bench) running(id string) []Running {
	return []Running{{Name: "app", ID: id, StartedAt: time.Now(), PodIP: "10.0.0.1"}}
}

func wantTimes(t *testing.T, got []int, want ...int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("ran at %v ms, want %v", got, want)
	}
}

func TestReadinessKeepsToItsGrid(t *testing.T) {
	do := func(_ context.Context, _ string, nth int) (int32, error) {
		time.Sleep(300 * time.Millisecond) // slow, but within the period
		return map[bool]int32{true: 1, false: 0}[nth == 1 || nth >= 4], nil
	}
	run(t, do, func(b *bench) {
		spec := execProbe("ready", 2, 1, 2)
		spec.InitialDelaySeconds = 3
		b.Set(podWith(v1.Container{ReadinessProbe: spec}), b.running("id1"))
		b.wait(time.Second)
		b.wantOutcome(t, Readiness, Failure)
		b.wait(4500 * time.Millisecond)
		b.wantOutcome(t, Readiness, Success)
		b.wait(6 * time.Second)
		b.wantOutcome(t, Readiness, Failure)
		wantTimes(t, b.engine.at("ready", b.start), 3000, 5000, 7000, 9000, 11000)
		b.wantResults(t, "Readiness success", "Readiness failure")
		if e := <-b.events.Events; e != "Warning Unhealthy Readiness probe failed: said ready" {
			t.Errorf("event %q", e)
		}
	})
}

func TestSlowAttemptIsMadeUpForOnce(t *testing.T) {
	do := func(_ context.Context, _ string, nth int) (int32, error) {
		if nth == 1 {
			time.Sleep(3500 * time.Millisecond)
		}
		return 0, nil
	}
	run(t, do, func(b *bench) {
		b.Set(podWith(v1.Container{ReadinessProbe: execProbe("ready", 1, 9, 1)}), b.running("id1"))
		b.wait(5100 * time.Millisecond)
		wantTimes(t, b.engine.at("ready", b.start), 0, 3500, 4000, 5000)
	})
}

func TestStartupGatesTheOthers(t *testing.T) {
	do := func(_ context.Context, command string, nth int) (int32, error) {
		return map[bool]int32{true: 1}[command == "start" && nth < 3], nil
	}
	run(t, do, func(b *bench) {
		pod := podWith(v1.Container{StartupProbe: execProbe("start", 1, 1, 5),
			LivenessProbe: execProbe("live", 10, 1, 1), ReadinessProbe: execProbe("ready", 10, 1, 1)})
		b.Set(pod, b.running("id1"))
		b.wait(1500 * time.Millisecond)
		b.wantOutcome(t, Startup, Unknown)
		b.wantOutcome(t, Liveness, Success)
		b.wait(4 * time.Second)
		wantTimes(t, b.engine.at("start", b.start), 0, 1000, 2000)
		wantTimes(t, b.engine.at("live", b.start), 2000)
		wantTimes(t, b.engine.at("ready", b.start), 2000)
		b.wantResults(t, "Startup success", "Readiness success")
	})
}

func TestFailureHoldsUntilTheContainerChanges(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) { return 1, nil }
	run(t, do, func(b *bench) {
		pod := podWith(v1.Container{LivenessProbe: execProbe("live", 1, 1, 3)})
		b.Set(pod, b.running("id1"))
		b.wait(10 * time.Second)
		b.Set(pod, []Running{{Name: "app", ID: "id1"}}) // the same again changes nothing
		b.wait(time.Second)
		wantTimes(t, b.engine.at("live", b.start), 0, 1000, 2000)
		b.wantResults(t, "Liveness failure")

		b.Set(pod, nil) // it was killed
		if _, ok := b.Get("u", "id1", Liveness); ok {
			t.Error("a container that does not run still has a result")
		}
		b.Set(pod, b.running("id2"))
		b.wait(500 * time.Millisecond)
		if got, ok := b.Get("u", "id2", Liveness); !ok || got != Success {
			t.Errorf("the new container is %v, %v", got, ok)
		}
		wantTimes(t, b.engine.at("live", b.start)[3:], 11000)
		b.Remove("u")
		b.wait(5 * time.Second)
		wantTimes(t, b.engine.at("live", b.start)[4:])
	})
}

func TestStartupFailureHolds(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) { return 1, nil }
	run(t, do, func(b *bench) {
		b.Set(podWith(v1.Container{StartupProbe: execProbe("start", 1, 1, 2), LivenessProbe: execProbe("live", 1, 1, 1)}), b.running("id1"))
		b.wait(10 * time.Second)
		wantTimes(t, b.engine.at("start", b.start), 0, 1000)
		wantTimes(t, b.engine.at("live", b.start))
		b.wantResults(t, "Startup failure")
	})
}

func TestTerminationStopsAllButReadiness(t *testing.T) {
	do := func(_ context.Context, command string, _ int) (int32, error) {
		return map[bool]int32{true: 1}[command == "live"], nil
	}
	for name, end := range map[string]func(*bench, *v1.Pod){
		"deleted": func(b *bench, pod *v1.Pod) {
			pod = pod.DeepCopy()
			pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			b.Set(pod, []Running{{Name: "app", ID: "id1"}})
		},
		"ended otherwise": func(b *bench, pod *v1.Pod) {
			b.Terminate(pod.UID)
			b.Set(pod, []Running{{Name: "app", ID: "id1"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, do, func(b *bench) {
				pod := podWith(v1.Container{LivenessProbe: execProbe("live", 1, 1, 10), ReadinessProbe: execProbe("ready", 1, 1, 1)})
				b.Set(pod, b.running("id1"))
				b.wait(1500 * time.Millisecond)
				end(b, pod)
				b.wait(2 * time.Second)
				wantTimes(t, b.engine.at("live", b.start), 0, 1000)
				wantTimes(t, b.engine.at("ready", b.start), 0, 1000, 2000, 3000)
				b.wantOutcome(t, Liveness, Success)
			})
		})
	}
}

func TestAdoption(t *testing.T) {
	do := func(_ context.Context, command string, _ int) (int32, error) {
		time.Sleep(time.Millisecond)
		return 0, nil
	}
	run(t, do, func(b *bench) {
		pod := podWith(v1.Container{StartupProbe: execProbe("start", 1, 1, 1), ReadinessProbe: execProbe("ready", 5, 1, 1)})
		b.Set(pod, []Running{{Name: "app", ID: "id1", StartedAt: b.start.Add(-time.Hour), WasStarted: true, WasReady: true}})
		b.wantOutcome(t, Startup, Success)
		b.wantOutcome(t, Readiness, Success)
		b.wait(time.Second)
		wantTimes(t, b.engine.at("start", b.start))
		wantTimes(t, b.engine.at("ready", b.start), 0)
		b.wantResults(t)
	})
}

// A new daemon keeps to the times of the old one, except where nothing good is known yet.
func TestAdoptionKeepsTheGrid(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) { return 0, nil }
	run(t, do, func(b *bench) {
		pod := podWith(v1.Container{LivenessProbe: execProbe("live", 10, 1, 1), ReadinessProbe: execProbe("ready", 10, 1, 1)})
		b.Set(pod, []Running{{Name: "app", ID: "id1", StartedAt: b.start.Add(-time.Hour - 3*time.Second), WasStarted: true}})
		b.wait(18 * time.Second)
		wantTimes(t, b.engine.at("live", b.start), 7000, 17000)
		wantTimes(t, b.engine.at("ready", b.start), 0, 10000)
	})
}

func TestErrorsDoNotCount(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) { return 0, errors.New("no runtime") }
	run(t, do, func(b *bench) {
		b.Set(podWith(v1.Container{LivenessProbe: execProbe("live", 1, 1, 1)}), b.running("id1"))
		b.wait(500 * time.Millisecond)
		wantTimes(t, b.engine.at("live", b.start), 0, 0, 0) // tried three times
		b.wantOutcome(t, Liveness, Success)
		if e := <-b.events.Events; e != "Warning Unhealthy Liveness probe errored and resulted in unknown state: no runtime" {
			t.Errorf("event %q", e)
		}
	})
}

func TestExecTimeoutIsAFailure(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) {
		return 0, status.Error(codes.DeadlineExceeded, "too slow")
	}
	run(t, do, func(b *bench) {
		b.Set(podWith(v1.Container{LivenessProbe: execProbe("live", 1, 2, 1)}), b.running("id1"))
		b.wait(time.Millisecond)
		b.wantOutcome(t, Liveness, Failure)
		if e := <-b.events.Events; e != `Warning Unhealthy Liveness probe failed: command timed out: "live" timed out after 2s` {
			t.Errorf("event %q", e)
		}
	})
}

func TestRemoveCancelsTheAttemptInFlight(t *testing.T) {
	cancelled := make(chan struct{})
	do := func(ctx context.Context, _ string, _ int) (int32, error) {
		<-ctx.Done()
		close(cancelled)
		return 1, nil
	}
	run(t, do, func(b *bench) {
		b.Set(podWith(v1.Container{LivenessProbe: execProbe("live", 1, 60, 1)}), b.running("id1"))
		b.wait(time.Second)
		b.Remove("u")
		<-cancelled
		synctest.Wait()
		b.wantResults(t)
		if len(b.events.Events) != 0 {
			t.Errorf("event %q about a container that is gone", <-b.events.Events)
		}
	})
}

func TestCommandsAtWorkAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		engine := &script{runs: map[string][]time.Time{}, do: func(context.Context, string, int) (int32, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(patience / 2)
			mu.Lock()
			now--
			mu.Unlock()
			return 0, nil
		}}
		m := New(Config{Engine: engine, MaxExec: 3})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.Run(ctx) })
		for i := range 10 {
			pod := podWith(v1.Container{ReadinessProbe: execProbe("ready", 60, 1, 1)})
			pod.UID += types.UID(rune('0' + i))
			m.Set(pod, []Running{{Name: "app", ID: string(pod.UID)}})
		}
		time.Sleep(time.Second)
		if n := len(engine.at("ready", time.Now())); most != 3 || n != 10 {
			t.Errorf("%d attempts, %d at once; want 10 and 3", n, most)
		}
		cancel()
		wg.Wait()
	})
}

func TestHangingProbesHoldUpNoOthers(t *testing.T) {
	do := func(ctx context.Context, command string, _ int) (int32, error) {
		if command == "hang" {
			<-ctx.Done()
		}
		return 0, ctx.Err()
	}
	run(t, do, func(b *bench) {
		b.exec = newTurns(4)
		for i := range 100 {
			pod := podWith(v1.Container{LivenessProbe: execProbe("hang", 1, 30, 100)})
			pod.UID = types.UID(strconv.Itoa(i))
			b.Set(pod, []Running{{Name: "app", ID: string(pod.UID)}})
		}
		// Each takes a turn for as long as patience lasts, once; from then on they are known.
		b.wait(100 / 4 * patience)
		b.Set(podWith(v1.Container{LivenessProbe: execProbe("live", 1, 1, 1)}), b.running("id1"))
		begun := time.Now()
		b.wait(40*time.Second + 500*time.Millisecond)
		var want []int
		for s := range 41 {
			want = append(want, 1000*s)
		}
		wantTimes(t, b.engine.at("live", begun), want...)
	})
}

func TestNetworkProbesTakeNoTurn(t *testing.T) {
	do := func(ctx context.Context, _ string, _ int) (int32, error) { <-ctx.Done(); return 0, ctx.Err() }
	run(t, do, func(b *bench) {
		b.exec = newTurns(1)
		c := v1.Container{LivenessProbe: execProbe("hang", 1, 60, 1), ReadinessProbe: &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1}}
		b.Set(podWith(c), b.running("id1")) // a probe without handler errs at once
		b.wait(100 * time.Millisecond)
		if len(b.events.Events) == 0 {
			t.Error("the readiness probe waits for the liveness probe's command")
		}
	})
}

func TestSidecarsAreProbedAndInitContainersAreNot(t *testing.T) {
	do := func(context.Context, string, int) (int32, error) { return 1, nil }
	run(t, do, func(b *bench) {
		always := v1.ContainerRestartPolicyAlways
		pod := podWith(v1.Container{})
		pod.Spec.InitContainers = []v1.Container{
			{Name: "init", ReadinessProbe: execProbe("init", 1, 1, 1)},
			{Name: "side", RestartPolicy: &always, ReadinessProbe: execProbe("side", 1, 1, 1)},
		}
		b.Set(pod, []Running{{Name: "init", ID: "a"}, {Name: "side", ID: "b"}, {Name: "app", ID: "c"}})
		b.wait(time.Millisecond)
		wantTimes(t, b.engine.at("init", b.start))
		wantTimes(t, b.engine.at("side", b.start), 0)
		if e := <-b.events.Events; !strings.Contains(e, "Readiness probe failed: said side") {
			t.Errorf("event %q", e)
		}
	})
}
