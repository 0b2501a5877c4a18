package worker

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// minimumGrace is the time that a container always gets between stop signal and kill, as in the kubelet.
const minimumGrace = 2 * time.Second

// killing is one termination under way; a later plan may shorten it or let its stop signal go.
type killing struct {
	begun time.Time

	mu      sync.Mutex
	action  plan.KillContainer
	changed chan struct{} // closed and replaced at each update
}

func newKilling(a plan.KillContainer) *killing {
	return &killing{begun: time.Now(), action: a, changed: make(chan struct{})}
}

func (k *killing) update(a plan.KillContainer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.Grace == k.action.Grace && a.Hold == k.action.Hold && a.Deadline.Equal(k.action.Deadline) {
		return
	}
	if a.Grace != k.action.Grace {
		k.begun = time.Now() // what the user has now asked for counts from now
	}
	k.action = a
	close(k.changed)
	k.changed = make(chan struct{})
}

// since counts the grace period from an earlier instant.
func (k *killing) since(begun time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !begun.IsZero() && begun.Before(k.begun) {
		k.begun = begun
	}
}

// now returns the newest action, when its grace period ends, and a channel that tells of a newer one.
func (k *killing) now() (plan.KillContainer, time.Time, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	deadline := k.begun.Add(time.Duration(k.action.Grace) * time.Second)
	if !k.action.Deadline.IsZero() && k.action.Deadline.Before(deadline) {
		deadline = k.action.Deadline
	}
	return k.action, deadline, k.changed
}

// await returns what comes from ended, or that the grace period was over before.
func (k *killing) await(ended <-chan hookResult) (r hookResult, over bool) {
	for {
		_, deadline, changed := k.now()
		timer := time.NewTimer(time.Until(deadline))
		select {
		case r = <-ended:
			timer.Stop()
			return r, false
		case <-timer.C:
			return r, true
		case <-changed:
			timer.Stop()
		}
	}
}

// kill ends a container ("Termination of Pods"): preStop, stop signal, grace period, KILL. The hook's time
// counts in the grace period; after it the container always has the minimum. Of one that has completed the hook is all.
func (w *Worker) kill(ctx context.Context, pod *v1.Pod, k *killing) error {
	a, _, _ := k.now()
	spec := plan.Spec(pod, a.Name)
	if a.Renew {
		w.mu.Lock()
		w.memory.renew[a.Name] = true
		w.mu.Unlock()
	}
	if a.Cause != plan.Completed {
		w.event(pod, spec, v1.EventTypeNormal, "Killing", "%s", a.Message)
	}
	finish := w.preStop(ctx, pod, spec, k)
	defer finish()
	if a.Cause == plan.Completed || ctx.Err() != nil {
		return nil // when the daemon ends, the next one goes on; a signal now would cut its hook short
	}
	for {
		if ctx.Err() != nil {
			return ctx.Err() // the agent ends, not the container
		}
		a, deadline, changed := k.now()
		left := time.Until(deadline)
		if a.Hold && left > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			case <-time.After(left):
			}
			continue
		}
		done, err := w.stop(ctx, a.ID, max(left, minimumGrace), changed)
		if done {
			return err
		}
	}
}

// stop sends the stop signal and waits for the end; it is not done when a newer action came first.
func (w *Worker) stop(ctx context.Context, id string, grace time.Duration, changed <-chan struct{}) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		// Whole seconds, rounded up: CRI has no finer unit.
		_, err := w.cfg.Engine.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: int64((grace + time.Second - 1) / time.Second)})
		ended <- ignoreNotFound(err)
	}()
	select {
	case err := <-ended:
		return true, err
	case <-changed:
		cancel()
		<-ended
		return false, nil
	}
}
