package worker

import (
	"context"
	"fmt"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// start creates and starts one attempt, then runs its postStart hook ("Container Lifecycle Hooks":
// the container is not Running until the hook has returned). Its process begins when turn is closed.
func (w *Worker) start(ctx context.Context, pod *v1.Pod, a plan.StartContainer, turn <-chan struct{}) {
	spec := plan.Spec(pod, a.Name)
	if spec == nil {
		return
	}
	w.mu.Lock()
	seen, image := w.memory.lastSeen, w.memory.present[a.Name]
	delete(w.memory.images, a.Name) // the next attempt asks again
	delete(w.memory.present, a.Name)
	w.mu.Unlock()
	if latest := seen.Latest(a.Name); latest != nil && latest.State == plan.Exited {
		w.mu.Lock()
		w.memory.backoff[a.Name] = w.nextBackoff(seen, a.Name)
		delete(w.memory.renew, a.Name)
		w.mu.Unlock()
	}
	id := a.Resume
	if id == "" {
		var ok bool
		if id, ok = w.create(ctx, pod, spec, seen, a, image); !ok {
			return
		}
	}
	select {
	case <-turn:
	case <-ctx.Done():
		return
	}
	if _, err := w.cfg.Engine.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		if ctx.Err() == nil {
			w.refuse(pod, spec, "RunContainerError", grpcstatus.Convert(err).Message())
		}
		return
	}
	w.event(pod, spec, v1.EventTypeNormal, "Started", "Container started")
	w.succeed(a.Name)
	w.postStart(ctx, pod, spec, id)
}

// nextBackoff is the named container's back-off once it is started now; the caller holds mu.
func (w *Worker) nextBackoff(seen *plan.Observed, name string) plan.Backoff {
	since, backoff := seen.BackoffSince(name), w.memory.backoff[name]
	backoff.Max = w.cfg.MaxRestartPeriod
	if since.IsZero() {
		return plan.Backoff{}
	}
	return backoff.Next(since, time.Now())
}

// create makes the container; ok is false when it could not, which is then recorded.
func (w *Worker) create(ctx context.Context, pod *v1.Pod, spec *v1.Container, seen *plan.Observed, a plan.StartContainer, image *runtimeapi.Image) (id string, ok bool) {
	sandbox := seen.ReadySandbox()
	if sandbox == nil {
		return "", false
	}
	attempt := Attempt{Number: a.Attempt, PodIPs: sandbox.IPs, Image: image}
	if pod.Spec.HostNetwork {
		attempt.PodIPs = w.cfg.HostIPs()
	}
	if a.Kind == plan.Ephemeral {
		target, err := targetOf(pod, a.Name, seen)
		if err != nil {
			w.refuse(pod, spec, "CreateContainerConfigError", err.Error())
			return "", false
		}
		attempt.TargetID = target
	}
	config, err := w.cfg.Specs.Container(ctx, pod, spec, attempt)
	if err != nil {
		if ctx.Err() == nil {
			w.refuse(pod, spec, "CreateContainerConfigError", err.Error())
		}
		return "", false
	}
	sandboxConfig, err := w.cfg.Specs.Sandbox(pod, sandbox.Attempt)
	if err != nil {
		w.refuse(pod, spec, "CreateContainerConfigError", err.Error())
		return "", false
	}
	r, err := w.cfg.Engine.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		if ctx.Err() == nil {
			w.refuse(pod, spec, "CreateContainerError", grpcstatus.Convert(err).Message())
		}
		return "", false
	}
	w.actuatedMemory(spec)
	w.event(pod, spec, v1.EventTypeNormal, "Created", "Container created")
	return r.ContainerId, true
}

// targetOf finds the container whose PID namespace an ephemeral container wants (field targetContainerName).
func targetOf(pod *v1.Pod, name string, seen *plan.Observed) (string, error) {
	for i := range pod.Spec.EphemeralContainers {
		e := &pod.Spec.EphemeralContainers[i]
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		if target := seen.Latest(e.TargetContainerName); target != nil {
			return target.ID, nil // one that does not run is for the engine to refuse
		}
		return "", fmt.Errorf("unable to find target container %s", e.TargetContainerName)
	}
	return "", nil
}

// refuse records that a container could not be started.
func (w *Worker) refuse(pod *v1.Pod, spec *v1.Container, reason, message string) {
	w.fail(spec.Name, reason, message)
	w.event(pod, spec, v1.EventTypeWarning, "Failed", "Error: %s", message)
}

// finishStart runs the postStart hook that an earlier agent did not see returning.
func (w *Worker) finishStart(ctx context.Context, pod *v1.Pod, a plan.FinishStart) {
	if spec := plan.Spec(pod, a.Name); spec != nil {
		w.postStart(ctx, pod, spec, a.ID)
	}
}

func (w *Worker) podIP(pod *v1.Pod) string {
	w.mu.Lock()
	seen := w.memory.lastSeen
	w.mu.Unlock()
	if seen != nil && !pod.Spec.HostNetwork {
		if s := seen.ReadySandbox(); s != nil && len(s.IPs) > 0 {
			return s.IPs[0]
		}
	}
	if ips := w.cfg.HostIPs(); len(ips) > 0 {
		return ips[0]
	}
	return ""
}
