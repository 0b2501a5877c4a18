package worker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/containerconfig"
	"peapod.dev/peapod/internal/agent/plan"
)

// count tells how many of the engine's acts begin so.
func (b *bench) count(prefix string) (n int) {
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	for _, line := range b.engine.log {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (b *bench) wantCount(prefix string, want int) {
	b.t.Helper()
	if got := b.count(prefix); got != want {
		b.t.Errorf("the engine did %q %d times, want %d", prefix, got, want)
	}
}

// wantNoEvent fails if any event so far says text.
func (b *bench) wantNoEvent(text string) {
	b.t.Helper()
	for {
		select {
		case e := <-b.events.Events:
			if strings.Contains(e, text) {
				b.t.Errorf("an event says %q", e)
			}
		default:
			return
		}
	}
}

func preStop(p *v1.Pod) {
	lifecycle(p)
	p.Spec.Containers[0].Lifecycle.PostStart = nil
}

func postStart(p *v1.Pod) {
	lifecycle(p)
	p.Spec.Containers[0].Lifecycle.PreStop = nil
}

func TestWhatAFailedHookSaidIsInTheEvent(t *testing.T) {
	run(t, postStart, func(b *bench) {
		b.engine.hookErr = errors.New("no luck")
		b.engine.exit("app-0", 1)
		b.pass(0)
		b.wantEvent("Warning FailedPostStartHook PostStartHook failed: no luck")
		b.wantEvent("Normal Killing FailedPostStartHook")
	})
	run(t, preStop, func(b *bench) {
		b.engine.hookErr = errors.New("no luck")
		b.remove(5)
		b.wantEvent("Warning FailedPreStopHook PreStopHook failed: no luck")
	})
}

func TestPostStartIsNotLostWithTheDaemon(t *testing.T) {
	run(t, func(p *v1.Pod) {
		postStart(p)
		p.Spec.Containers[0].Lifecycle.PostStart = &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 10}}
	}, func(b *bench) {
		b.pass(5 * time.Second)
		b.crash()
		b.wantEvent("Warning HookRepeated The postStart hook had begun")
		if s := b.status(); s.Phase != v1.PodPending || b.waiting() != "ContainerCreating" {
			t.Errorf("while the hook runs again the status is %+v", s)
		}
		b.pass(10 * time.Second)
		if s := b.status(); s.Phase != v1.PodRunning || !*s.ContainerStatuses[0].Started {
			t.Errorf("after the hook the status is %+v", s)
		}
		b.crash()
		b.pass(time.Second)
		if s := b.status(); s.Phase != v1.PodRunning {
			t.Errorf("after a hook that has run, a new daemon makes the status %+v", s)
		}
		b.wantNoEvent("HookRepeated")
		b.wantCount("start", 1)
	})
}

func TestAFailedPostStartKillsAlsoAfterACrash(t *testing.T) {
	run(t, postStart, func(b *bench) {
		b.engine.deaf = true
		b.engine.hookErr = errors.New("no")
		b.engine.exit("app-0", 1)
		b.pass(time.Second) // app-1 has its hook failed, and ignores its stop signal
		b.wantCount("stop app-1", 1)
		b.crash()
		b.wantCount("stop app-1", 2)
		b.wantCount("hook app-1", 1)
		b.pass(31 * time.Second)
		if s := b.status().ContainerStatuses[0]; s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 137 {
			t.Errorf("the container is %+v", s)
		}
	})
}

func TestPreStopThatHasRunDoesNotRunAgain(t *testing.T) {
	run(t, preStop, func(b *bench) {
		b.engine.deaf = true
		b.remove(30)
		b.pass(time.Second)
		b.crash()
		b.wantCount("hook app-0", 1)
		b.wantCount("stop app-0", 2)
		b.wantNoEvent("HookRepeated")
	})
}

func TestPreStopThatWasInterruptedRunsAgainWithinTheGrace(t *testing.T) {
	run(t, preStop, func(b *bench) {
		b.engine.hook = time.Hour
		b.remove(10)
		b.pass(6 * time.Second)
		b.crash()
		b.wantEvent("Warning HookRepeated The preStop hook had begun")
		b.wantCount("hook app-0", 2)
		b.wantCount("stop", 0)
		b.pass(4 * time.Second)
		b.wantCount("stop app-0 timeout=2", 1)
	})
	run(t, preStop, func(b *bench) { // no time is left for it
		b.engine.hook = time.Hour
		b.remove(10)
		b.pass(6 * time.Second)
		b.end()
		b.pass(5 * time.Second)
		b.crash()
		b.wantCount("hook app-0", 1)
		b.wantCount("stop app-0 timeout=2", 1)
		b.wantEvent("FailedPreStopHook PreStopHook failed: not completed within the grace period")
	})
}

func TestPreStopThatOverrunsGoesOnWhileTheContainerStops(t *testing.T) {
	run(t, preStop, func(b *bench) {
		b.engine.hook, b.engine.deaf = 4*time.Second, true
		b.remove(3)
		b.pass(5*time.Second + 200*time.Millisecond)
		if s := b.status().ContainerStatuses[0].State.Terminated; s == nil {
			t.Errorf("the container is %+v", b.status().ContainerStatuses[0].State)
		}
		b.wantNoEvent("FailedPreStopHook") // it ended within the two seconds more
	})
	run(t, preStop, func(b *bench) {
		b.engine.hook, b.engine.deaf = time.Hour, true
		b.remove(3)
		b.pass(6 * time.Second)
		b.wantEvent("FailedPreStopHook PreStopHook failed: ")
	})
	run(t, func(p *v1.Pod) {
		preStop(p)
		p.Spec.Containers[0].Lifecycle.PreStop = &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 30}}
	}, func(b *bench) {
		b.remove(3)
		b.pass(6 * time.Second)
		b.wantCount("stop app-0 timeout=2", 1)
		b.wantNoEvent("FailedPreStopHook") // upstream's sleep goes on unseen
	})
}

func TestPreStopOfAContainerThatEndedByItselfDoesNotRun(t *testing.T) {
	run(t, func(p *v1.Pod) {
		preStop(p)
		p.Spec.RestartPolicy = v1.RestartPolicyNever
	}, func(b *bench) {
		b.engine.exit("app-0", 0)
		b.pass(0)
		b.remove(30)
		b.wantCount("hook", 0)
		b.wantNoEvent("FailedPreStopHook")
	})
}

func TestPreStopNeedsAGracePeriod(t *testing.T) {
	run(t, func(p *v1.Pod) {
		preStop(p)
		p.Spec.TerminationGracePeriodSeconds = new(int64(0))
	}, func(b *bench) {
		// As a failed liveness probe has it. A Pod that ends has a second at least.
		if err := b.worker.kill(b.t.Context(), b.pod, newKilling(plan.KillContainer{ID: "app-0", Name: "app", Cause: plan.Liveness})); err != nil {
			t.Fatal(err)
		}
		b.wantCount("hook", 0)
		b.wantCount("stop app-0 timeout=2", 1)
	})
}

func TestAShorterGraceCutsTheHook(t *testing.T) {
	run(t, preStop, func(b *bench) {
		b.engine.hook = time.Hour
		b.remove(600)
		b.pass(10 * time.Second)
		b.remove(5)
		b.wantCount("stop", 0)
		b.pass(6 * time.Second)
		b.wantCount("hook app-0", 1)
		b.wantCount("stop app-0 timeout=2", 1)
	})
}

func TestDeletionInterruptsAHangingPostStart(t *testing.T) {
	run(t, func(p *v1.Pod) {
		lifecycle(p)
		p.Spec.Containers[0].Lifecycle.PostStart = &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3000}}
	}, func(b *bench) {
		b.pass(time.Second)
		b.remove(5)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "hook app-0 preStop", "stop app-0 timeout=5", "stop sandbox")
		b.wantNoEvent("FailedPostStartHook")
	})
}

func TestHooksWithoutAHandlerFail(t *testing.T) {
	run(t, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
	}, func(b *bench) {
		b.wantEvent("FailedPostStartHook PostStartHook failed: invalid handler")
	})
}

// A Pod whose object went while no daemon ran still has its preStop hook: its containers' annotations keep it.
func TestPreStopOfAPodThatIsGone(t *testing.T) {
	run(t, nil, func(b *bench) {
		b.end()
		b.pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid"}}
		containerconfig.Restore(b.pod, "app", map[string]string{containerconfig.PreStopHandlerAnnotation: `{"exec":{"command":["bye"]}}`})
		b.start(b.worker.cfg, (*Worker).Delete)
		b.pass(0)
		b.wantCount("hook app-0 bye", 1)
		b.wantCount("remove sandbox", 1)
	})
}

func completion(p *v1.Pod) {
	preStop(p)
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	p.Annotations = map[string]string{plan.PreStopOnCompletion: "true"}
}

func TestPreStopOnCompletion(t *testing.T) {
	run(t, completion, func(b *bench) {
		b.engine.exit("app-0", 3)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "create app.prestop-0", "start app.prestop-0")
		s := b.status()
		if s.Phase != v1.PodRunning || s.ContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("while the hook runs the status is %+v", s)
		}
		b.crash() // the container goes on
		b.crash()
		b.engine.exit("app.prestop-0", 0)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "create app.prestop-0", "start app.prestop-0",
			"stop app.prestop-0 timeout=2", "remove app.prestop-0", "stop sandbox")
		if s := b.status(); s.Phase != v1.PodFailed || len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].State.Terminated.ExitCode != 3 {
			t.Errorf("after the hook the status is %+v", s)
		}
		b.crash()
		b.pass(time.Minute)
		b.wantCount("create app.prestop", 1)
		b.wantNoEvent("HookRepeated")
	})
}

func TestPreStopOnCompletionThatFails(t *testing.T) {
	log := filepath.Join(t.TempDir(), "prestop.log")
	if err := os.WriteFile(log, []byte("2030-01-01T00:00:00.000000000Z stderr F disk full\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, completion, func(b *bench) {
		b.engine.logPath = log
		b.engine.exit("app-0", 0)
		b.pass(0)
		b.engine.exit("app.prestop-0", 9)
		b.pass(0)
		b.wantEvent("Warning FailedPreStopHook PreStopHook failed: exit code 9: disk full")
		if s := b.status(); s.Phase != v1.PodSucceeded {
			t.Errorf("the phase is %s: a hook has no say in it", s.Phase)
		}
	})
}

func TestPreStopOnCompletionHasTheGracePeriod(t *testing.T) {
	run(t, completion, func(b *bench) {
		b.engine.exit("app-0", 0)
		b.pass(29 * time.Second)
		b.wantCount("stop", 0)
		b.pass(time.Second)
		b.wantCount("stop app.prestop-0 timeout=2", 1)
		b.wantCount("remove app.prestop-0", 1)
		b.wantEvent("FailedPreStopHook PreStopHook failed: ")
		if s := b.status(); s.Phase != v1.PodSucceeded {
			t.Errorf("the phase is %s", s.Phase)
		}
	})
	run(t, completion, func(b *bench) { // less when the Pod is deleted
		b.engine.exit("app-0", 0)
		b.pass(time.Second)
		b.remove(3)
		b.pass(2 * time.Second)
		b.wantCount("stop", 0)
		b.pass(2 * time.Second)
		b.wantCount("remove app.prestop-0", 1)
		if b.count("stop sandbox") == 0 {
			t.Error("the pod waits on")
		}
	})
}

func TestPreStopOnCompletionNotAfterAKill(t *testing.T) {
	run(t, completion, func(b *bench) {
		b.remove(30)
		b.pass(0)
		b.wantLog("sandbox", "create app-0", "start app-0", "hook app-0 preStop", "stop app-0 timeout=30", "stop sandbox")
	})
}

func TestPreStopOnCompletionWithoutACommand(t *testing.T) {
	run(t, func(p *v1.Pod) {
		completion(p)
		p.Spec.Containers[0].Lifecycle.PreStop = &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}}
	}, func(b *bench) {
		b.engine.exit("app-0", 0)
		b.pass(2 * time.Second)
		b.crash()
		b.wantEvent("HookRepeated")
		b.pass(4 * time.Second)
		if s := b.status(); s.Phase != v1.PodRunning {
			t.Errorf("the phase is %s before the hook is over", s.Phase)
		}
		b.pass(2 * time.Second)
		if s := b.status(); s.Phase != v1.PodSucceeded {
			t.Errorf("the phase is %s", s.Phase)
		}
	})
}

// Real-time signals have other names in CRI than in the API.
func TestStopSignalIsShownAsTheAPISpellsIt(t *testing.T) {
	run(t, nil, func(b *bench) {
		for signal, want := range map[runtimeapi.Signal]v1.Signal{
			runtimeapi.Signal_SIGNAL_SIGTERM:         v1.SIGTERM,
			runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3:   v1.SIGRTMINPLUS3,
			runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14: v1.SIGRTMAXMINUS14,
		} {
			c := b.worker.container(b.pod, "s0", &runtimeapi.ContainerStatus{Id: "x", Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, StopSignal: signal}, Limits{})
			if c.StopSignal == nil || *c.StopSignal != want {
				t.Errorf("%s is shown as %v, want %s", signal, c.StopSignal, want)
			}
		}
	})
}

// An operation that ends while the engine is asked may not show in the answer: its action is not begun a second time.
func TestWhatEndedDuringAnObservationIsNotBegunAnew(t *testing.T) {
	run(t, nil, func(b *bench) {
		stop := plan.StopSandbox{ID: "s0"}
		b.worker.apply(b.t.Context(), b.pod, []plan.Action{stop}, map[string]bool{stop.Key(): true}, time.Now())
		b.pass(0)
		b.wantCount("stop sandbox", 0)
		b.worker.apply(b.t.Context(), b.pod, []plan.Action{stop}, nil, time.Now())
		b.pass(0)
		b.wantCount("stop sandbox", 1)
	})
}
