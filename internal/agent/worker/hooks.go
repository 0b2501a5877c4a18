package worker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/hook"
	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/fault"
)

// The hooks of a container, as the names of their records end.
const (
	postStartHook = "postStart"
	preStopHook   = "preStop"
)

// Reasons and messages of the events about hooks, upstream's but for the last: see docs/adr/0004-hooks-and-crashes.md.
const (
	reasonPostStartFailed  = "FailedPostStartHook"
	messagePostStartFailed = "PostStartHook failed"
	reasonPreStopFailed    = "FailedPreStopHook"
	messagePreStopFailed   = "PreStopHook failed"
	reasonHookRepeated     = "HookRepeated"
)

// hookRecord is how far one hook of one container has come. The record is a file in the Pod's folder, so that it outlives
// the daemon: a line with the time is written when the hook begins, a second one when it has ended. It is not made
// durable: a power cut ends the container that it is about.
type hookRecord struct {
	begun time.Time // zero: not yet
	end   hookEnd
}

type hookEnd string

const (
	hookSucceeded hookEnd = "succeeded"
	hookFailed    hookEnd = "failed"
)

// hookResult is what Hooks.Run returns.
type hookResult struct {
	cause string
	err   error
}

var errOverrun = errors.New("not completed within the grace period")

func (w *Worker) hookFile(id, kind string) string {
	return filepath.Join(w.cfg.PodDir(w.uid), "hooks", id+"."+kind)
}

// hook returns the record of a container's hook. Only this Worker writes it, so the file is read once.
func (w *Worker) hook(id, kind string) hookRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := id + "." + kind
	r, known := w.memory.hooks[key]
	if !known {
		if text, err := os.ReadFile(w.hookFile(id, kind)); err == nil {
			at, end, _ := strings.Cut(string(text), "\n")
			if r.begun, err = time.Parse(time.RFC3339Nano, at); err != nil {
				r.begun = time.Now() // the daemon died between making the file and writing to it
			}
			r.end = hookEnd(end)
		}
		w.memory.hooks[key] = r
	}
	return r
}

// beginHook records that a hook begins. A hook that an earlier daemon began and did not see ending is repeated: the user
// is told.
func (w *Worker) beginHook(pod *v1.Pod, spec *v1.Container, id, kind string) {
	if r := w.hook(id, kind); !r.begun.IsZero() {
		w.log.Warn("running a hook again that had begun when the agent stopped", "container", spec.Name, "hook", kind)
		w.event(pod, spec, v1.EventTypeWarning, reasonHookRepeated,
			"The %s hook had begun when the agent stopped, and how it ended is not known: it runs again", kind)
		return
	}
	now := time.Now()
	w.record(spec, id, kind, hookRecord{begun: now}, now.Format(time.RFC3339Nano)+"\n")
}

// endHook records how a hook ended: it never runs again for this container.
func (w *Worker) endHook(spec *v1.Container, id, kind string, end hookEnd) {
	r := w.hook(id, kind)
	line := string(end)
	if r.begun.IsZero() { // it is not to begin
		r.begun = time.Now()
		line = r.begun.Format(time.RFC3339Nano) + "\n" + line
	}
	r.end = end
	w.record(spec, id, kind, r, line)
}

// record remembers r and adds text to the file. When the file cannot be written the hook runs all the same: what is
// lost is only what a daemon that follows a crash would have known.
func (w *Worker) record(spec *v1.Container, id, kind string, r hookRecord, text string) {
	w.mu.Lock()
	w.memory.hooks[id+"."+kind] = r
	w.mu.Unlock()
	file := w.hookFile(id, kind)
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		w.log.Error("cannot record how far a hook is", "container", spec.Name, "hook", kind, "error", err)
	}
}

// forgetHooks removes the records of a container that is gone.
func (w *Worker) forgetHooks(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range []string{postStartHook, preStopHook} {
		delete(w.memory.hooks, id+"."+kind)
		_ = os.Remove(w.hookFile(id, kind)) // else it goes with the Pod's folder
	}
}

// call is a run of a hook in the running container id.
func (w *Worker) call(pod *v1.Pod, spec *v1.Container, id string, handler *v1.LifecycleHandler) hook.Call {
	return hook.Call{
		Pod: pod, Container: spec, Handler: handler, PodIP: w.podIP(pod),
		Exec: func(ctx context.Context, command []string) (*runtimeapi.ExecSyncResponse, error) {
			return w.cfg.Engine.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
		},
	}
}

// postStart runs the hook, if there is one and it has not run. When it fails, the plan has the container killed.
func (w *Worker) postStart(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string) {
	if spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil || w.hook(id, postStartHook).end != "" {
		return
	}
	w.beginHook(pod, spec, id, postStartHook)
	fault.Point("postStart begun")
	cause, err := w.cfg.Hooks.Run(ctx, w.call(pod, spec, id, spec.Lifecycle.PostStart))
	fault.Point("postStart returned")
	switch {
	case err == nil:
		w.endHook(spec, id, postStartHook, hookSucceeded)
	case ctx.Err() == nil: // else the container is ending, or the daemon
		w.log.Warn("postStart hook failed", "container", spec.Name, "error", err)
		w.event(pod, spec, v1.EventTypeWarning, reasonPostStartFailed, "%s: %s", messagePostStartFailed, cause)
		w.fail(spec.Name, "PostStartHookError", err.Error())
		w.endHook(spec, id, postStartHook, hookFailed)
	}
}

// preStop runs the hook of a container that is being killed, or that has completed, if it has one that has not run, until
// the hook returns or the grace period, which counts from the hook's first begin, is over. A hook that overruns goes on
// while the container is stopped, which takes no less than the minimum; finish, to be called after that, ends it.
func (w *Worker) preStop(ctx context.Context, pod *v1.Pod, spec *v1.Container, k *killing) (finish func()) {
	a, _, _ := k.now()
	nothing := func() {}
	if spec == nil || spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil || w.hook(a.ID, preStopHook).end != "" {
		return nothing
	}
	if a.Grace == 0 { // no time for it, now or after the container's end
		w.endHook(spec, a.ID, preStopHook, hookFailed)
		return nothing
	}
	call, tidy := w.call(pod, spec, a.ID, spec.Lifecycle.PreStop), nothing
	if a.Cause == plan.Completed {
		tidy = func() { w.removeCompletion(ctx, a.ID) }
		call.Exec = func(ctx context.Context, command []string) (*runtimeapi.ExecSyncResponse, error) {
			return w.complete(ctx, pod, spec, a.ID, command)
		}
	} else if !w.running(ctx, a.ID) {
		return nothing // it has ended by itself
	}
	begun := w.hook(a.ID, preStopHook).begun
	k.since(begun)
	if _, deadline, _ := k.now(); !time.Now().Before(deadline) {
		w.endHook(spec, a.ID, preStopHook, hookFailed)
		if !begun.IsZero() {
			w.preStopFailed(pod, spec, hookResult{errOverrun.Error(), errOverrun})
		}
		return tidy
	}
	if a.Cause != plan.Completed || w.completion(ctx, a.ID) == nil { // else it has outlived the daemon and goes on
		w.beginHook(pod, spec, a.ID, preStopHook)
	}
	fault.Point("preStop begun")
	inner, cancel := context.WithCancel(ctx)
	ended := make(chan hookResult, 1)
	go func() {
		cause, err := w.cfg.Hooks.Run(inner, call)
		ended <- hookResult{cause, err}
	}()
	r, over := k.await(ended)
	fault.Point("preStop returned")
	switch {
	case ctx.Err() != nil: // the next daemon sees to it
		cancel()
		if over {
			<-ended
		}
		return nothing
	case over:
		w.endHook(spec, a.ID, preStopHook, hookFailed)
	case r.err != nil:
		w.endHook(spec, a.ID, preStopHook, hookFailed)
		w.preStopFailed(pod, spec, r)
	default:
		w.endHook(spec, a.ID, preStopHook, hookSucceeded)
	}
	return func() {
		tidy()
		if over {
			select {
			case r = <-ended:
			default:
				cancel()
				<-ended
				r = hookResult{errOverrun.Error(), errOverrun}
			}
			// A sleep that is cut short is no failure to upstream.
			if r.err != nil && ctx.Err() == nil && spec.Lifecycle.PreStop.Sleep == nil {
				w.preStopFailed(pod, spec, r)
			}
		}
		cancel()
	}
}

func (w *Worker) preStopFailed(pod *v1.Pod, spec *v1.Container, r hookResult) {
	w.log.Warn("preStop hook failed", "container", spec.Name, "error", r.err)
	w.event(pod, spec, v1.EventTypeWarning, reasonPreStopFailed, "%s: %s", messagePreStopFailed, r.cause)
}

// running asks the engine whether the container runs.
func (w *Worker) running(ctx context.Context, id string) bool {
	r, err := w.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return err == nil && r.Status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}
