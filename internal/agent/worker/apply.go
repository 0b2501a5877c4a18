package worker

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/fault"
)

// operation is one action being carried out.
type operation struct {
	cancel context.CancelFunc
	// undo is true for an action that is cancelled when the plan wants it no longer.
	undo bool
	// kill is set for plan.KillContainer: its deadline may be brought forward.
	kill *killing
	// turn is set for plan.StartContainer and closed when the container's process may begin.
	turn   chan struct{}
	turned bool
}

// letGo ends the hold of a start; the caller holds mu.
func (op *operation) letGo() {
	if op.turn != nil && !op.turned {
		op.turned = true
		close(op.turn)
	}
}

// holdOff is how long an action that failed for no reason of the Pod's own waits.
const holdOff = time.Second

// apply begins what the plan wants and cancels what it wants no longer. It returns when to look again
// because of actions held back, zero if there are none. What was in flight when the plan's observation began and has ended
// since is not begun anew: the plan may not have seen its effect, and the Worker looks again anyway.
func (w *Worker) apply(ctx context.Context, pod *v1.Pod, actions []plan.Action, inFlight map[string]bool, now time.Time) (wake time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted := make(map[string]bool, len(actions))
	for _, a := range actions {
		key := a.Key()
		wanted[key] = true
		if op := w.ops[key]; op != nil {
			switch a := a.(type) {
			case plan.KillContainer:
				op.kill.update(a)
			case plan.StartContainer:
				if !a.Hold {
					op.letGo()
				}
			}
			continue
		}
		if inFlight[key] {
			continue
		}
		if until := w.memory.held[key]; now.Before(until) {
			if wake.IsZero() || until.Before(wake) {
				wake = until
			}
			continue
		}
		delete(w.memory.held, key)
		w.begin(ctx, pod, a)
	}
	for key, op := range w.ops {
		if !wanted[key] && op.undo {
			op.cancel()
		}
	}
	return wake
}

// begin starts one action; the caller holds mu.
func (w *Worker) begin(ctx context.Context, pod *v1.Pod, a plan.Action) {
	switch a := a.(type) {
	case plan.BackOff:
		w.backOff(pod, a)
		return
	case plan.BackOffPull:
		w.backOffPull(pod, a)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel}
	switch a := a.(type) {
	case plan.StartContainer, plan.FinishStart, plan.PullImage, plan.SetupVolumes, plan.CreateSandbox:
		op.undo = true
	case plan.KillContainer:
		op.kill = newKilling(a)
	}
	if s, ok := a.(plan.StartContainer); ok {
		op.turn = make(chan struct{})
		if !s.Hold {
			op.letGo()
		}
	}
	w.ops[a.Key()] = op
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		defer cancel()
		begun := time.Now()
		fault.Point("before", a)
		err := w.do(ctx, pod, a, op)
		fault.Point("after", a)
		w.log.Debug("action ended", "action", a.String(), "took", time.Since(begun))
		w.mu.Lock()
		delete(w.ops, a.Key())
		if err != nil && ctx.Err() == nil {
			w.log.Error("cannot carry out an action on the pod", "action", a.String(), "error", err)
			w.memory.held[a.Key()] = time.Now().Add(holdOff)
		}
		w.mu.Unlock()
		w.Poke()
	}()
}

// do carries out one action. An error means that it is to be tried again soon; failures that the Pod's
// user must see are recorded by the action itself.
func (w *Worker) do(ctx context.Context, pod *v1.Pod, a plan.Action, op *operation) error {
	switch a := a.(type) {
	case plan.SetupVolumes:
		w.setupVolumes(ctx, pod)
		return nil
	case plan.TeardownVolumes:
		return w.teardownVolumes(ctx)
	case plan.CreateSandbox:
		w.createSandbox(ctx, pod, a)
		return nil
	case plan.StopSandbox:
		return w.stopSandbox(ctx, a.ID)
	case plan.RemoveSandbox:
		return w.removeSandbox(ctx, a.ID)
	case plan.PullImage:
		w.pull(ctx, pod, a.Container)
		return nil
	case plan.StartContainer:
		w.start(ctx, pod, a, op.turn)
		return nil
	case plan.FinishStart:
		w.finishStart(ctx, pod, a)
		return nil
	case plan.KillContainer:
		return w.kill(ctx, pod, op.kill)
	case plan.ResizePod:
		w.resize(ctx, pod)
		return nil
	case plan.RemoveContainer:
		return w.removeContainer(ctx, a.ID)
	}
	return fmt.Errorf("unknown action %T", a)
}

// fail records why something could not be started and tells the user by an event.
func (w *Worker) fail(name, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory.failures[name] = plan.Failure{Reason: reason, Message: message, At: time.Now()}
}

func (w *Worker) succeed(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.memory.failures, name)
}

// backOff shows a restart back-off, once for each; the caller holds mu.
func (w *Worker) backOff(pod *v1.Pod, a plan.BackOff) {
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", a.Delay, a.Name, podName(pod))
	if f := w.memory.failures[a.Name]; f.Reason == "CrashLoopBackOff" && f.Message == message {
		return
	}
	w.memory.failures[a.Name] = plan.Failure{Reason: "CrashLoopBackOff", Message: message, At: time.Now()}
	w.event(pod, plan.Spec(pod, a.Name), v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", a.Name, podName(pod))
	w.Poke()
}

// podName is the form in which upstream names Pods in messages.
func podName(pod *v1.Pod) string { return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID) }
