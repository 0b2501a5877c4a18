// Package status computes a Pod's status from what the agent sees. It is pure: same input, same output.
// It follows "Pod Lifecycle" (phases, conditions, container states) and, where that document is silent,
// what the upstream kubelet writes.
//
// Invariants: a terminal phase never changes; a phase becomes terminal only when no container runs;
// restart counts never go down; conditions of other owners are kept.
package status

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"

	"peapod.dev/peapod/internal/agent/plan"
)

// Input is what Compute needs besides the Pod and the clock.
type Input struct {
	Seen *plan.Observed
	// Old is the status computed last, or the API's when there is none: what cannot be seen any more is taken from it.
	Old v1.PodStatus
	// Finished is plan.Decision.Finished: no container runs and none ever will.
	Finished bool
	// HostIPs are the node's addresses, the primary first.
	HostIPs []string

	restarting bool // all containers are being removed to start anew
}

// Compute returns the status of pod at the instant now.
func Compute(pod *v1.Pod, in Input, now time.Time) v1.PodStatus {
	if in.Old.Phase == v1.PodUnknown {
		// The node controller's word, while this node was lost: it is not any more.
		in.Old.Phase, in.Old.Reason, in.Old.Message = v1.PodRunning, "", ""
	}
	seen, old := in.Seen, in.Old
	s := v1.PodStatus{
		QOSClass:                             qos.GetPodQOS(pod),
		NominatedNodeName:                    pod.Status.NominatedNodeName,
		ResourceClaimStatuses:                pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus:          pod.Status.ExtendedResourceClaimStatus,
		NodeAllocatableResourceClaimStatuses: pod.Status.NodeAllocatableResourceClaimStatuses,
		ObservedGeneration:                   pod.Generation,
		Resize:                               old.Resize,
	}
	if !seen.StartTime.IsZero() {
		start := metav1.NewTime(seen.StartTime).Rfc3339Copy()
		s.StartTime = &start
	}
	addresses(pod, in, &s)

	ended := in.Finished
	if refused(seen, &old) {
		s.Phase, s.Reason, s.Message = old.Phase, old.Reason, old.Message
		if !podutil.IsPodPhaseTerminal(s.Phase) && ended {
			s.Phase, s.Reason, s.Message = v1.PodFailed, seen.Ended.Reason, seen.Ended.Message
		}
		podResources(pod, in, &s)
		conditions(pod, in, &s, now)
		return s
	}
	in.restarting = plan.RestartsAll(pod, seen) || holds(&old, v1.AllContainersRestarting)
	s.InitContainerStatuses = containers(pod, pod.Spec.InitContainers, plan.Init, in, old.InitContainerStatuses)
	if !initialized(pod, &s) && !initialized(pod, &old) {
		// App images are pulled ahead of their turn: what went wrong there is not the Pod's state yet.
		in.Seen = withoutFailures(in.Seen, pod.Spec.Containers)
	}
	s.ContainerStatuses = containers(pod, pod.Spec.Containers, plan.App, in, old.ContainerStatuses)
	if n := len(pod.Spec.EphemeralContainers); n > 0 {
		specs := make([]v1.Container, n)
		for i := range specs {
			specs[i] = v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
		s.EphemeralContainerStatuses = containers(pod, specs, plan.Ephemeral, in, old.EphemeralContainerStatuses)
	}
	if ended {
		settleUnknown(pod, &s)
	}

	switch {
	case podutil.IsPodPhaseTerminal(pod.Status.Phase):
		s.Phase = pod.Status.Phase
	case podutil.IsPodPhaseTerminal(old.Phase):
		s.Phase = old.Phase
	case seen.Ended != nil && ended:
		s.Phase, s.Reason, s.Message = v1.PodFailed, seen.Ended.Reason, seen.Ended.Message
	default:
		s.Phase = phase(pod, &s, hasRun(pod, seen), ended)
		if podutil.IsPodPhaseTerminal(s.Phase) && !ended {
			// Not before the last container has ended: what it holds may be handed on once the phase says so.
			s.Phase = old.Phase
			if s.Phase == "" {
				s.Phase = v1.PodPending
			}
		}
		if ended && !podutil.IsPodPhaseTerminal(s.Phase) {
			s.Phase = v1.PodFailed // ended before it could start
		}
	}
	if s.Phase == old.Phase && s.Reason == "" && s.Message == "" {
		s.Reason, s.Message = old.Reason, old.Message
	}
	podResources(pod, in, &s)
	conditions(pod, in, &s, now)
	shorten(pod, &s)
	return s
}

// shorten bounds the termination messages of a Pod: 12 KiB for all of its containers, divided evenly.
func shorten(pod *v1.Pod, s *v1.PodStatus) {
	each := kubecontainer.MaxPodTerminationMessageLogLength / (len(pod.Spec.InitContainers) + len(pod.Spec.Containers) + len(pod.Spec.EphemeralContainers))
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for _, state := range []*v1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if t := state.Terminated; t != nil && len(t.Message) > each {
					short := *t
					short.Message = t.Message[:each]
					state.Terminated = &short
				}
			}
		}
	}
}

// refused tells whether the Pod ended before anything was said of its containers: they have no status then, so that
// clients show why the Pod was refused.
func refused(seen *plan.Observed, old *v1.PodStatus) bool {
	return (seen.Ended != nil || podutil.IsPodPhaseTerminal(old.Phase)) &&
		len(seen.Containers)+len(old.InitContainerStatuses)+len(old.ContainerStatuses) == 0
}

// withoutFailures is seen without the failures of the given containers.
func withoutFailures(seen *plan.Observed, specs []v1.Container) *plan.Observed {
	out := *seen
	out.Failures = maps.Clone(seen.Failures)
	for i := range specs {
		delete(out.Failures, specs[i].Name)
	}
	return &out
}

// addresses fills podIP(s) and hostIP(s). A Pod keeps its addresses in its status after its end.
func addresses(pod *v1.Pod, in Input, s *v1.PodStatus) {
	if len(in.HostIPs) > 0 {
		s.HostIP = in.HostIPs[0]
		for _, ip := range in.HostIPs {
			s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
		}
	}
	var ips []string
	switch {
	case pod.Spec.HostNetwork:
		for _, ip := range in.Old.PodIPs {
			ips = append(ips, ip.IP)
		}
		if len(ips) == 0 {
			ips = in.HostIPs
		}
	case in.Seen.Sandbox() != nil:
		ips = in.Seen.Sandbox().IPs
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
	if len(ips) == 0 && podutil.IsPodPhaseTerminal(in.Old.Phase) {
		s.PodIPs = in.Old.PodIPs
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// settleUnknown makes sure that an ended Pod claims no living or waiting container that may have run.
func settleUnknown(pod *v1.Pod, s *v1.PodStatus) {
	lost := unlocated()
	if initialized(pod, s) {
		for i := range s.ContainerStatuses {
			if c := &s.ContainerStatuses[i]; c.State.Terminated == nil {
				c.State, c.Ready, c.Started = lost, false, new(bool)
			}
		}
	}
	last := 0 // at least the first one counts as begun
	for i, c := range s.InitContainerStatuses {
		if c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			last = i
		}
	}
	for i := range s.InitContainerStatuses {
		if c := &s.InitContainerStatuses[i]; i <= last && c.State.Terminated == nil {
			c.State, c.Ready, c.Started = lost, false, new(bool)
		}
	}
}

// initialized tells whether the status has evidence that all init containers were done.
func initialized(pod *v1.Pod, s *v1.PodStatus) bool {
	n := len(s.InitContainerStatuses)
	if len(pod.Spec.InitContainers) == 0 {
		return true
	}
	for _, c := range s.ContainerStatuses {
		if c.LastTerminationState.Terminated != nil || c.State.Waiting == nil {
			return true
		}
	}
	if n == 0 || n != len(pod.Spec.InitContainers) {
		return false
	}
	c := s.InitContainerStatuses[n-1]
	if podutil.IsRestartableInitContainer(&pod.Spec.InitContainers[n-1]) {
		return c.State.Running != nil && c.Started != nil && *c.Started
	}
	return succeeded(c.State) || succeeded(c.LastTerminationState)
}

func succeeded(s v1.ContainerState) bool { return s.Terminated != nil && s.Terminated.ExitCode == 0 }
