package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"
)

// A completion is the container in which the preStop command of a container that ended by itself runs (annotation
// plan.PreStopOnCompletion): made like the one that ended, but for command, terminal and termination message. It is
// known by a label that holds the ID of the other, and is no attempt of anything: neither the plan nor the status, nor
// `kubectl exec` and `logs`, know of it. Like every container it outlives the daemon, so the next one finds out how the
// hook ended. Its log is beside the container's.
const (
	completionLabel  = "peapod.dev/prestop-of"
	completionSuffix = ".prestop" // no container of a Pod can be named so
	completionLog    = "prestop.log"
)

// complete runs the command in the completion of the container of, or goes on with one that there is.
func (w *Worker) complete(ctx context.Context, pod *v1.Pod, spec *v1.Container, of string, command []string) (*runtimeapi.ExecSyncResponse, error) {
	ended := make(chan struct{}, 1)
	w.mu.Lock()
	w.memory.completions[of] = ended
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.memory.completions, of)
		w.mu.Unlock()
	}()
	c := w.completion(ctx, of)
	if c == nil {
		if err := w.createCompletion(ctx, pod, spec, of, command); err != nil {
			return nil, err
		}
		c = w.completion(ctx, of)
	}
	if c != nil && c.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		if _, err := w.cfg.Engine.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.Id}); err != nil {
			return nil, err
		}
		c = w.completion(ctx, of)
	}
	for c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
			c = w.completion(ctx, of)
		}
	}
	if c == nil {
		return nil, errors.New("the container that ran the hook is gone")
	}
	output := logEnd(c)
	if output == "" {
		output = c.Message // such as why it could not be started
	}
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(output), ExitCode: c.ExitCode}, nil
}

// completion finds the container, nil if there is none.
func (w *Worker) completion(ctx context.Context, of string) *runtimeapi.ContainerStatus {
	list, err := w.cfg.Engine.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: map[string]string{completionLabel: of}},
	})
	if err != nil || len(list.Containers) == 0 {
		return nil
	}
	r, err := w.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: list.Containers[0].Id})
	if err != nil {
		return nil
	}
	return r.Status
}

func (w *Worker) createCompletion(ctx context.Context, pod *v1.Pod, spec *v1.Container, of string, command []string) error {
	w.mu.Lock()
	seen := w.memory.lastSeen
	w.mu.Unlock()
	sandbox := seen.ReadySandbox()
	latest := seen.Latest(spec.Name)
	if sandbox == nil || latest == nil || latest.ID != of {
		return errors.New("the pod's sandbox is gone")
	}
	image, err := w.cfg.Engine.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: latest.ImageRef}})
	if err == nil && image.GetImage() == nil {
		err = fmt.Errorf("image %q is gone", latest.ImageRef)
	}
	if err != nil {
		return err
	}
	fresh := spec.DeepCopy()
	fresh.Lifecycle, fresh.TerminationMessagePath, fresh.Stdin, fresh.StdinOnce, fresh.TTY = nil, "", false, false, false
	attempt := Attempt{Number: latest.Attempt, PodIPs: sandbox.IPs, Image: image.Image}
	if pod.Spec.HostNetwork {
		attempt.PodIPs = w.cfg.HostIPs()
	}
	config, err := w.cfg.Specs.Container(ctx, pod, fresh, attempt)
	if err != nil {
		return err
	}
	name := spec.Name + completionSuffix
	config.Metadata = &runtimeapi.ContainerMetadata{Name: name, Attempt: uint32(latest.Attempt)}
	config.Command, config.Args = command, nil
	config.LogPath = filepath.Join(spec.Name, completionLog)
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	config.Labels[kubetypes.KubernetesContainerNameLabel], config.Labels[completionLabel] = name, of
	sandboxConfig, err := w.cfg.Specs.Sandbox(pod, sandbox.Attempt)
	if err != nil {
		return err
	}
	_, err = w.cfg.Engine.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: config, SandboxConfig: sandboxConfig})
	return err
}

// completionEnded wakes who waits for a completion; the caller of observe sees its end first.
func (w *Worker) completionEnded(of string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.memory.completions[of] <- struct{}{}:
	default:
	}
}

// removeCompletion removes the container, if there is one, unless the daemon is ending: then the next one goes on with it.
// One that still runs has the minimum between stop signal and kill, like any other.
func (w *Worker) removeCompletion(ctx context.Context, of string) {
	c := w.completion(ctx, of)
	if c == nil || ctx.Err() != nil {
		return
	}
	_, err := w.cfg.Engine.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: int64(minimumGrace / time.Second)})
	if err == nil {
		_, err = w.cfg.Engine.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Id})
	}
	if err != nil && ctx.Err() == nil {
		w.log.Error("cannot remove the container of a preStop hook", "container", c.Id, "error", err)
	}
}
