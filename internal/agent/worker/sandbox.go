package worker

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/containerlog"
	"peapod.dev/peapod/internal/agent/plan"
)

func (w *Worker) createSandbox(ctx context.Context, pod *v1.Pod, a plan.CreateSandbox) {
	if a.Changed {
		w.event(pod, nil, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	handler, err := w.cfg.Specs.Handler(ctx, pod)
	var config *runtimeapi.PodSandboxConfig
	if err == nil {
		config, err = w.cfg.Specs.Sandbox(pod, a.Attempt)
	}
	if err == nil {
		_, err = w.cfg.Engine.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	}
	switch {
	case err == nil:
		w.succeed("")
		w.actuated(config.GetLinux().GetResources())
	case ctx.Err() == nil: // else the Pod is ending: not a failure
		message := grpcstatus.Convert(err).Message()
		w.fail("", "FailedCreatePodSandBox", message)
		w.event(pod, nil, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %s", message)
	}
}

func (w *Worker) stopSandbox(ctx context.Context, id string) error {
	_, err := w.cfg.Engine.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

func (w *Worker) removeSandbox(ctx context.Context, id string) error {
	_, err := w.cfg.Engine.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

// removeContainer removes the container's log first, as the kubelet does: afterwards nobody would know where it is.
func (w *Worker) removeContainer(ctx context.Context, id string) error {
	s, err := w.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err := ignoreNotFound(err); err != nil {
		return err
	}
	if path := s.GetStatus().GetLogPath(); path != "" {
		if err := containerlog.Remove(path); err != nil {
			return err
		}
	}
	_, err = w.cfg.Engine.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	w.mu.Lock()
	delete(w.memory.messages, id)
	w.mu.Unlock()
	w.forgetHooks(id)
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if grpcstatus.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

func (w *Worker) setupVolumes(ctx context.Context, pod *v1.Pod) {
	before := w.volumes()
	w.setVolumes(plan.Volumes{Failed: before.Failed, Delay: before.Delay}) // no longer torn down
	failed := func() { w.setVolumes(plan.Volumes{Failed: time.Now(), Delay: before.NextDelay()}) }
	if !w.imageVolumes(ctx, pod) {
		failed()
		return
	}
	err := w.filling.Acquire(ctx, 1)
	if err == nil {
		err = w.cfg.Volumes.Setup(ctx, pod)
		w.filling.Release(1)
	}
	switch {
	case err == nil:
		w.setVolumes(plan.Volumes{Ready: true})
		w.mu.Lock()
		w.memory.shown = pod
		w.mu.Unlock()
	case ctx.Err() == nil:
		failed()
		w.event(pod, nil, v1.EventTypeWarning, "FailedMount", "%s", err)
	}
}

// imageVolumes makes the images present that the Pod mounts as volumes; a failure is that of the containers that mount it.
func (w *Worker) imageVolumes(ctx context.Context, pod *v1.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Image == nil || v.Image.Reference == "" {
			continue
		}
		_, reason, message := w.ensure(ctx, pod, &v1.Container{Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy})
		for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
			mounts := slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name })
			if mounts && reason != "" && ctx.Err() == nil {
				w.refuse(pod, c, reason, message)
			}
		}
		if reason != "" {
			return false
		}
	}
	return true
}

func (w *Worker) teardownVolumes(ctx context.Context) error {
	if err := w.filling.Acquire(ctx, 1); err != nil {
		return err
	}
	defer w.filling.Release(1)
	if err := w.cfg.Volumes.Teardown(ctx, w.uid); err != nil {
		return err
	}
	w.setVolumes(plan.Volumes{TornDown: true})
	return nil
}

func (w *Worker) volumes() plan.Volumes {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.memory.volumes
}

func (w *Worker) setVolumes(v plan.Volumes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory.volumes = v
}

// refresh rewrites volumes after the Pod's labels or annotations, or an object that they show, have
// changed. What failed for want of an object is tried again at once: it may be there now.
func (w *Worker) refresh(ctx context.Context, pod *v1.Pod) {
	const key = "update volumes"
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := w.memory.shown
	if shown != nil && maps.Equal(shown.Labels, pod.Labels) && maps.Equal(shown.Annotations, pod.Annotations) || w.ops[key] != nil {
		return
	}
	w.memory.shown = pod
	for name, f := range w.memory.failures {
		if f.Reason == "CreateContainerConfigError" {
			f.At = time.Time{}
			w.memory.failures[name] = f
			w.Poke()
		}
	}
	if !w.memory.volumes.Ready {
		if !w.memory.volumes.Failed.IsZero() {
			w.memory.volumes.Failed = time.Time{}
			w.Poke()
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.ops[key] = &operation{cancel: cancel}
	w.wg.Go(func() {
		defer cancel()
		err := w.filling.Acquire(ctx, 1)
		if err == nil {
			if w.volumes().Ready {
				err = w.cfg.Volumes.Update(ctx, pod)
			}
			w.filling.Release(1)
		}
		w.mu.Lock()
		delete(w.ops, key)
		w.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			w.event(pod, nil, v1.EventTypeWarning, "FailedMount", "%s", err)
		}
		w.Poke()
	})
}
