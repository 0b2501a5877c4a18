package worker

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"peapod.dev/peapod/internal/agent/allocation"
	"peapod.dev/peapod/internal/agent/plan"
)

// resources is what a Worker knows of its Pod's resources; the Worker's mutex guards it. What the API's status tells is
// taken from there when an agent starts.
type resources struct {
	granted allocation.Resources
	// memory has the memory request in force by container: the engine knows nothing of it. pod are the limits in force of
	// the Pod as a whole, nil until they are known.
	memory            map[string]resource.Quantity
	pod               *runtimeapi.LinuxContainerResources
	pending, progress *v1.PodCondition
	failed            time.Time
}

func (r *resources) restore(pod *v1.Pod) {
	r.granted, r.memory = allocation.Asked(pod), map[string]resource.Quantity{}
	if pod.Status.StartTime == nil {
		return
	}
	r.granted = allocation.Granted(pod)
	for _, statuses := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			if s.State.Running != nil && s.Resources != nil {
				r.memory[s.Name] = *s.Resources.Requests.Memory()
			}
		}
	}
	if _, c := podutil.GetPodCondition(&pod.Status, v1.PodResizePending); c != nil {
		r.pending = c.DeepCopy()
	}
	if _, c := podutil.GetPodCondition(&pod.Status, v1.PodResizeInProgress); c != nil {
		r.progress = c.DeepCopy()
		r.pod = &runtimeapi.LinuxContainerResources{} // nobody knows how far it came
	}
}

// revert ends the waiting for a wish that is none any more.
func (r *resources) revert(pod *v1.Pod) {
	if r.pending != nil && r.granted.Equal(allocation.Asked(pod)) {
		r.pending = nil
	}
}

// Granted returns the newest version of the Pod with the resources that the node has granted it.
func (w *Worker) Granted() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resources.granted.Apply(w.pod)
}

// Resizing returns what the Pod asks for beyond what it has been granted; ok is false if that is nothing, or nothing that
// an ending Pod gets.
func (w *Worker) Resizing() (r allocation.Resize, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || w.memory.ended != nil || w.pod.DeletionTimestamp != nil || podutil.IsPodPhaseTerminal(w.report.old.Phase) {
		return r, false
	}
	r = allocation.Resize{Pod: w.pod, Granted: w.resources.granted.Apply(w.pod), Pending: w.resources.pending}
	return r, r.Granted != r.Pod
}

// Grant gives the Pod the resources that this version of it asks for.
func (w *Worker) Grant(pod *v1.Pod) {
	w.mu.Lock()
	if w.resources.pod == nil {
		w.resources.pod = w.cfg.Specs.Limits(w.resources.granted.Apply(pod)).Pod
	}
	w.resources.granted = allocation.Asked(pod)
	w.resources.pending, w.resources.failed = nil, time.Time{}
	w.resources.progress = condition(v1.PodResizeInProgress, nil, "", "", pod.Generation)
	w.mu.Unlock()
	w.event(pod, nil, v1.EventTypeNormal, events.ResizeStarted, "%s", events.PodResizeStartedMsg(klog.Logger{}, pod, pod.Generation))
	w.Poke()
}

// Defer leaves the Pod the resources that it has, because the node cannot grant more now.
func (w *Worker) Defer(pod *v1.Pod, message string) {
	const reason = v1.PodReasonDeferred
	w.mu.Lock()
	old := w.resources.pending
	w.resources.pending = condition(v1.PodResizePending, old, reason, message, pod.Generation)
	w.mu.Unlock()
	if old == nil || old.Reason != reason || old.ObservedGeneration != pod.Generation {
		w.event(pod, nil, v1.EventTypeWarning, events.ResizeDeferred, "%s", events.PodResizePendingMsg(klog.Logger{}, pod, reason, message, pod.Generation))
	}
	w.Poke()
}

// condition is one of the two of a resize. Its time of transition is that of its reason, as upstream has it.
func condition(kind v1.PodConditionType, old *v1.PodCondition, reason, message string, generation int64) *v1.PodCondition {
	if old != nil && old.Reason == reason && old.Message == message && old.ObservedGeneration == generation {
		return old
	}
	now := metav1.Now().Rfc3339Copy()
	c := &v1.PodCondition{
		Type: kind, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation,
		LastProbeTime: now, LastTransitionTime: now,
	}
	if old != nil && old.Reason == reason {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

// observeResize completes the observation by how far a resize is; the caller holds mu. wanted are the Pod's limits, nil
// when no container runs.
func (w *Worker) observeResize(pod *v1.Pod, seen *plan.Observed, wanted *runtimeapi.LinuxContainerResources) {
	r, busy := &w.resources, false
	for i := range seen.Containers {
		c := &seen.Containers[i]
		spec := plan.Spec(pod, c.Name)
		if c.State != plan.Running || spec == nil || seen.Latest(c.Name) != c {
			continue
		}
		request, known := r.memory[c.Name]
		if asked := spec.Resources.Requests.Memory(); known && !request.Equal(*asked) {
			if c.Resize == nil {
				c.Resize = &plan.Resize{}
			}
			c.Resize.Memory = true
		}
		if known && c.Resources != nil && !request.IsZero() {
			c.Resources.Requests[v1.ResourceMemory] = request
		}
		busy = busy || c.Resize != nil
	}
	if wanted == nil && r.pod != nil {
		wanted = w.cfg.Specs.Limits(pod).Pod
	}
	if r.pod == nil && wanted != nil {
		r.pod = wanted
	}
	seen.PodResize = seen.ReadySandbox() != nil && difference(r.pod, wanted) != nil
	switch busy = busy || seen.PodResize; {
	case busy && r.progress == nil:
		r.progress = condition(v1.PodResizeInProgress, nil, "", "", pod.Generation)
	case !busy && r.progress != nil:
		message := events.PodResizeCompletedMsg(klog.Logger{}, pod, r.progress.ObservedGeneration)
		w.event(pod, nil, v1.EventTypeNormal, events.ResizeCompleted, "%s", message)
		r.progress = nil
	}
	seen.ResizePending, seen.ResizeInProgress, seen.ResizeFailed = r.pending, r.progress, r.failed
}

// difference tells what is enforced otherwise than wanted, nil if nothing.
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

// actuated records the limits in force of the Pod as a whole.
func (w *Worker) actuated(pod *runtimeapi.LinuxContainerResources) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resources.pod = pod
}

// actuatedMemory records the container's memory request as in force.
func (w *Worker) actuatedMemory(c *v1.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resources.memory[c.Name] = *c.Resources.Requests.Memory()
}

// resize brings the limits in force to those granted, and records when that fails.
func (w *Worker) resize(ctx context.Context, pod *v1.Pod) {
	err := w.enforce(ctx, pod)
	if err == nil || ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	r, generation := &w.resources, pod.Generation
	if r.progress != nil {
		generation = r.progress.ObservedGeneration
	}
	old := r.progress
	r.failed = time.Now()
	r.progress = condition(v1.PodResizeInProgress, old, v1.PodReasonError, err.Error(), generation)
	changed := r.progress != old
	w.mu.Unlock()
	if changed {
		w.event(pod, nil, v1.EventTypeWarning, events.ResizeError, "%s", events.PodResizeErrorMsg(klog.Logger{}, pod, generation, err.Error()))
	}
}

// update is one container whose limits change.
type update struct {
	id, name    string
	spec        *v1.Container
	now, wanted *runtimeapi.LinuxContainerResources
}

// enforce writes memory, then CPU, each in an order that keeps the containers' limits within the Pod's: the Pod first when
// it grows, then the containers, those that shrink before those that grow, and the Pod last when it shrinks.
func (w *Worker) enforce(ctx context.Context, pod *v1.Pod) error {
	w.mu.Lock()
	seen, now := w.memory.lastSeen, w.resources.pod
	w.mu.Unlock()
	sandbox := seen.ReadySandbox()
	if sandbox == nil {
		return nil
	}
	limits := w.cfg.Specs.Limits(pod)
	updates, err := w.updates(ctx, pod, seen, limits)
	if err != nil {
		return err
	}
	if err := w.shrinkable(ctx, sandbox.ID, updates, now, limits.Pod); err != nil {
		return err
	}
	for _, part := range []struct {
		of    func(*runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources
		limit func(*runtimeapi.LinuxContainerResources) int64
	}{
		{memoryOf, (*runtimeapi.LinuxContainerResources).GetMemoryLimitInBytes},
		{cpuOf, (*runtimeapi.LinuxContainerResources).GetCpuQuota},
	} {
		updatePod := func() error {
			_, err := w.cfg.Engine.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
				PodSandboxId: sandbox.ID, Overhead: &runtimeapi.LinuxContainerResources{}, Resources: part.of(limits.Pod),
			})
			return err
		}
		grows := larger(part.limit(limits.Pod), part.limit(now))
		if grows {
			if err := updatePod(); err != nil {
				return err
			}
		}
		slices.SortStableFunc(updates, func(a, b update) int {
			growth := func(u update) int64 { return unlimited(part.limit(u.wanted)) - unlimited(part.limit(u.now)) }
			return cmp.Compare(growth(a), growth(b))
		})
		for _, u := range updates {
			if _, err := w.cfg.Engine.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: u.id, Linux: part.of(u.wanted)}); err != nil {
				return err
			}
		}
		if !grows {
			if err := updatePod(); err != nil {
				return err
			}
		}
	}
	w.actuated(limits.Pod)
	for _, u := range updates {
		w.actuatedMemory(u.spec)
	}
	return nil
}

// updates lists the running containers that are resized in place.
func (w *Worker) updates(ctx context.Context, pod *v1.Pod, seen *plan.Observed, limits Limits) ([]update, error) {
	var out []update
	for i := range seen.Containers {
		c := &seen.Containers[i]
		spec := plan.Spec(pod, c.Name)
		if c.State != plan.Running || c.Resize == nil || spec == nil || limits.Containers[c.Name] == nil {
			continue
		}
		s, err := w.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
		if err != nil {
			return nil, err
		}
		out = append(out, update{c.ID, c.Name, spec, s.GetStatus().GetResources().GetLinux(), limits.Containers[c.Name]})
	}
	return out, nil
}

func larger(a, b int64) bool { return unlimited(a) > unlimited(b) }

// unlimited reads zero or less, which is no limit, as the largest.
func unlimited(limit int64) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return limit
}

func memoryOf(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: r.MemoryLimitInBytes, MemorySwapLimitInBytes: r.MemorySwapLimitInBytes}
}

func cpuOf(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{CpuShares: r.CpuShares, CpuQuota: r.CpuQuota, CpuPeriod: r.CpuPeriod}
}

// shrinkable refuses memory limits below what is in use, before anything is changed (validateMemoryResizeAction in
// pkg/kubelet/kuberuntime).
func (w *Worker) shrinkable(ctx context.Context, sandboxID string, updates []update, podNow, podWanted *runtimeapi.LinuxContainerResources) error {
	memory := (*runtimeapi.LinuxContainerResources).GetMemoryLimitInBytes
	shrinks := func(wanted, now *runtimeapi.LinuxContainerResources) bool { return larger(memory(now), memory(wanted)) }
	smaller := slices.DeleteFunc(slices.Clone(updates), func(u update) bool { return !shrinks(u.wanted, u.now) })
	if len(smaller) == 0 && !shrinks(podWanted, podNow) {
		return nil
	}
	r, err := w.cfg.Engine.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sandboxID})
	if err != nil {
		return fmt.Errorf("cannot read the memory usage of the pod: %w", err)
	}
	var errs []error
	stats := r.GetStats().GetLinux()
	if used := stats.GetMemory().GetUsageBytes().GetValue(); shrinks(podWanted, podNow) && used >= uint64(memory(podWanted)) {
		errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", memory(podWanted), used))
	}
	for _, u := range smaller {
		for _, c := range stats.GetContainers() {
			if used := c.GetMemory().GetUsageBytes().GetValue(); c.GetAttributes().GetId() == u.id && used >= uint64(memory(u.wanted)) {
				errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", u.name, memory(u.wanted), used))
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}

// enforced reads the kernel's limits back into the terms of the spec, for status.resources.
func enforced(spec *v1.Container, l *runtimeapi.LinuxContainerResources) *v1.ResourceRequirements {
	if spec == nil || l == nil {
		return nil
	}
	out := &v1.ResourceRequirements{Limits: v1.ResourceList{}, Requests: v1.ResourceList{}}
	if l.CpuQuota > 0 && l.CpuPeriod > 0 {
		// Below 10 millicores the kernel enforces 10: the spec's own value is told then.
		if m := (l.CpuQuota*1000 + l.CpuPeriod - 1) / l.CpuPeriod; m > 10 || spec.Resources.Limits.Cpu().MilliValue() > 10 {
			out.Limits[v1.ResourceCPU] = *resource.NewMilliQuantity(m, resource.DecimalSI)
		}
	}
	if l.MemoryLimitInBytes > 0 {
		out.Limits[v1.ResourceMemory] = *resource.NewQuantity(l.MemoryLimitInBytes, resource.BinarySI)
	}
	if l.CpuShares > 2 {
		out.Requests[v1.ResourceCPU] = *resource.NewMilliQuantity((l.CpuShares*1000+1023)/1024, resource.DecimalSI)
	}
	return out
}
