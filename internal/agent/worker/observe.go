package worker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/containerconfig"
	"peapod.dev/peapod/internal/agent/plan"
)

// The label by which the engine's objects are found, and the annotation that tells which spec a container was
// made from, as the kubelet sets them.
const (
	uidLabel = "io.kubernetes.pod.uid"
	hashKey  = "io.kubernetes.container.hash"
)

// observe builds the snapshot that the planner works on.
func (w *Worker) observe(ctx context.Context) (*plan.Observed, error) {
	seen := &plan.Observed{InFlight: w.inFlight()}
	selector := map[string]string{uidLabel: string(w.uid)}
	sandboxes, err := w.cfg.Engine.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes.Items {
		st, err := w.cfg.Engine.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if grpcstatus.Code(err) == codes.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		seen.Sandboxes = append(seen.Sandboxes, sandbox(st.Status))
	}
	slices.SortFunc(seen.Sandboxes, func(a, b plan.Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })

	containers, err := w.cfg.Engine.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	for _, c := range containers.Containers {
		st, err := w.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if grpcstatus.Code(err) == codes.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		if of, ok := c.Labels[completionLabel]; ok {
			if st.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
				w.completionEnded(of)
			}
			continue
		}
		seen.Containers = append(seen.Containers, w.container(pod, c.PodSandboxId, st.Status))
	}
	slices.SortFunc(seen.Containers, func(a, b plan.Container) int {
		if n := b.CreatedAt.Compare(a.CreatedAt); n != 0 {
			return n
		}
		return b.Attempt - a.Attempt
	})

	for i := range seen.Containers {
		if seen.Containers[i].Resize != nil {
			seen.ResizePending = w.cfg.Fits(pod)
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if spec := plan.Spec(pod, c.Name); spec != nil {
			c.Probes = w.cfg.Probes.Results(pod, spec, c)
		}
	}
	seen.Images = maps.Clone(w.memory.images)
	seen.Failures = maps.Clone(w.memory.failures)
	seen.Backoff = maps.Clone(w.memory.backoff)
	seen.Renew = maps.Clone(w.memory.renew)
	seen.Volumes = w.memory.volumes
	seen.StartTime, seen.Ended, seen.Gone = w.memory.start, w.memory.ended, w.gone
	w.memory.lastSeen = seen
	return seen, nil
}

// inFlight has the keys of the operations under way. It is asked before the engine is: of one that ends in between it is
// not known whether its effect was seen, and it pokes the Worker to look again.
func (w *Worker) inFlight() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := make(map[string]bool, len(w.ops))
	for key := range w.ops {
		keys[key] = true
	}
	return keys
}

func sandbox(s *runtimeapi.PodSandboxStatus) plan.Sandbox {
	out := plan.Sandbox{
		ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), CreatedAt: time.Unix(0, s.CreatedAt),
		Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		out.IPs = append(out.IPs, ip)
		for _, more := range s.Network.AdditionalIps {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out
}

// container converts an engine's status. The attempt number is the restart count, as the kubelet records it.
func (w *Worker) container(pod *v1.Pod, sandboxID string, s *runtimeapi.ContainerStatus) plan.Container {
	out := plan.Container{
		ID: s.Id, Name: s.GetMetadata().GetName(), Attempt: int(s.GetMetadata().GetAttempt()), SandboxID: sandboxID,
		CreatedAt: instant(s.CreatedAt), StartedAt: instant(s.StartedAt), FinishedAt: instant(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message, Image: s.GetImage().GetImage(), ImageRef: s.ImageRef,
	}
	if u := s.GetImage().GetUserSpecifiedImage(); u != "" {
		out.Image = u
	}
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		out.State = plan.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		out.State = plan.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		out.State = plan.Exited
		out.Message = w.terminationMessage(s)
	default:
		out.State = plan.Unknown
	}
	if u := s.GetUser().GetLinux(); u != nil {
		out.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if s.StopSignal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		signal := v1.Signal(strings.NewReplacer("SIGNAL_", "", "PLUS", "+", "MINUS", "-").Replace(s.StopSignal.String()))
		out.StopSignal = &signal
	}
	spec := plan.Spec(pod, out.Name)
	out.PostStartDone = true
	if spec != nil && spec.Lifecycle != nil {
		if spec.Lifecycle.PostStart != nil {
			end := w.hook(s.Id, postStartHook).end
			out.PostStartDone, out.PostStartFailed = end == hookSucceeded, end == hookFailed
		}
		out.PreStopDone = spec.Lifecycle.PreStop != nil && w.hook(s.Id, preStopHook).end != ""
	}
	out.Changed = spec != nil && s.Annotations[hashKey] != "" && s.Annotations[hashKey] != containerconfig.Hash(spec)
	if out.State == plan.Running && spec != nil {
		out.Resources = enforced(spec, s.GetResources().GetLinux())
		wanted, _ := w.cfg.Specs.Resources(pod, spec)
		out.Resize = difference(s.GetResources().GetLinux(), wanted)
	}
	return out
}

// instant converts nanoseconds; CRI's zero stays Go's zero.
func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
