package worker

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// difference tells what the kernel enforces otherwise than wanted, nil if nothing.
func difference(enforced, wanted *runtimeapi.LinuxContainerResources) *plan.Resize {
	if enforced == nil || wanted == nil {
		return nil
	}
	r := plan.Resize{
		CPU:    enforced.CpuShares != wanted.CpuShares || max(enforced.CpuQuota, 0) != max(wanted.CpuQuota, 0),
		Memory: max(enforced.MemoryLimitInBytes, 0) != max(wanted.MemoryLimitInBytes, 0),
	}
	if !r.CPU && !r.Memory {
		return nil
	}
	return &r
}

// resize gives a running container the limits of its spec. The Pod's control group must never be the smaller
// one, whichever way the limits go: it is set before, which fails when the containers still need more, and after.
func (w *Worker) resize(ctx context.Context, pod *v1.Pod, a plan.ResizeContainer) error {
	spec := plan.Spec(pod, a.Name)
	w.mu.Lock()
	seen := w.memory.lastSeen
	w.mu.Unlock()
	sandbox := seen.ReadySandbox()
	if spec == nil || sandbox == nil {
		return nil
	}
	limits, podLimits := w.cfg.Specs.Resources(pod, spec)
	update := func() error {
		_, err := w.cfg.Engine.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: sandbox.ID, Overhead: &runtimeapi.LinuxContainerResources{}, Resources: unlimited(podLimits),
		})
		return err
	}
	before := update()
	_, err := w.cfg.Engine.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: a.ID, Linux: unlimited(limits)})
	if err != nil {
		return fmt.Errorf("cannot resize container %s: %w", a.Name, errors.Join(err, before))
	}
	if err := update(); err != nil {
		return fmt.Errorf("cannot resize the pod: %w", err)
	}
	w.event(pod, spec, v1.EventTypeNormal, "ResizeCompleted", "Container resized")
	return nil
}

// unlimited spells a limit that is gone as the kernel wants it: -1. In CRI zero means "as it is".
func unlimited(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := proto.CloneOf(r)
	if out.CpuQuota == 0 {
		out.CpuQuota = -1
	}
	if out.MemoryLimitInBytes == 0 {
		out.MemoryLimitInBytes = -1
	}
	return out
}
