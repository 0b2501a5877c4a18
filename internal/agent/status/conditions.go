package status

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// own lists the condition types that the agent computes; all others are somebody else's and are kept.
var own = map[v1.PodConditionType]bool{
	v1.PodScheduled: true, v1.PodReady: true, v1.PodInitialized: true,
	v1.ContainersReady: true, v1.PodReadyToStartContainers: true,
	v1.PodResizePending: true, v1.PodResizeInProgress: true, v1.AllContainersRestarting: true,
}

// Reasons of the conditions of a Pod that has ended.
const (
	podCompleted = "PodCompleted"
	podFailed    = "PodFailed"
)

// conditions computes status.conditions ("Pod Lifecycle", Pod conditions).
func conditions(pod *v1.Pod, in Input, s *v1.PodStatus, now time.Time) {
	for _, c := range pod.Status.Conditions {
		if !own[c.Type] {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if !in.Finished && !podutil.IsPodPhaseTerminal(s.Phase) {
		for _, c := range []*v1.PodCondition{in.Seen.ResizePending, in.Seen.ResizeInProgress} {
			if c != nil {
				s.Conditions = append(s.Conditions, *c)
			}
		}
	}
	ready := containersReady(pod, s)
	list := []v1.PodCondition{sandboxReady(in.Seen), initializedCondition(pod, &in.Old, s), gated(pod, s, ready), ready,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue}}
	if podutil.AllContainersCouldRestart(&pod.Spec) {
		list = append(list, allRestarting(pod, in, s.Phase))
	}
	if in.Seen.Ended != nil && podutil.IsPodPhaseTerminal(s.Phase) && disruption(in.Seen.Ended.Reason) {
		list = append(list, v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: v1.PodReasonTerminationByKubelet, Message: in.Seen.Ended.Message})
	}
	for _, c := range list {
		if _, other := podutil.GetPodConditionFromList(s.Conditions, c.Type); other != nil {
			continue
		}
		c.ObservedGeneration = pod.Generation
		c.LastTransitionTime = metav1.NewTime(now).Rfc3339Copy()
		for _, conditions := range [][]v1.PodCondition{in.Old.Conditions, pod.Status.Conditions} {
			if _, old := podutil.GetPodConditionFromList(conditions, c.Type); old != nil && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
				break
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
}

// holds tells whether the condition is true in s.
func holds(s *v1.PodStatus, condition v1.PodConditionType) bool {
	_, c := podutil.GetPodConditionFromList(s.Conditions, condition)
	return c != nil && c.Status == v1.ConditionTrue
}

// allRestarting is the condition of a Pod whose rules can restart all its containers.
func allRestarting(pod *v1.Pod, in Input, phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch phase {
	case v1.PodSucceeded:
		c.Reason = podCompleted
		return c
	case v1.PodFailed:
		c.Reason = podFailed
		return c
	}
	for spec := range podutil.ContainerIter(&pod.Spec, podutil.InitContainers|podutil.Containers) {
		if in.restarting && in.Seen.Latest(spec.Name) != nil { // not all are gone yet
			c.Status, c.Reason, c.Message = v1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
		}
	}
	return c
}

// disruption tells whether ending for the reason is a disruption in the sense of the condition DisruptionTarget.
func disruption(reason string) bool { return reason == "Evicted" || reason == "Terminated" }

func sandboxReady(seen *plan.Observed) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue}
	switch {
	case seen.Sandbox() == nil:
		c.Message = "no pod sandbox exists"
	case seen.ReadySandbox() == nil:
		c.Message = "pod sandbox is not ready"
	case !seen.Volumes.Ready && !seen.Volumes.TornDown:
		c.Message = "volumes are not mounted"
	default:
		return c
	}
	c.Status, c.Reason = v1.ConditionFalse, "PodSandboxNotReady"
	return c
}

func initializedCondition(pod *v1.Pod, old, s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if s.Phase == v1.PodSucceeded {
		c.Reason = podCompleted
		return c
	}
	for _, app := range s.ContainerStatuses {
		if app.State.Running != nil || app.State.Terminated != nil || app.LastTerminationState.Terminated != nil {
			return c // once an app container has run, the Pod stays initialized
		}
	}
	var open []string
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		st, _ := podutil.GetContainerStatus(s.InitContainerStatuses, spec.Name)
		done := st.Ready
		if podutil.IsRestartableInitContainer(spec) {
			done = st.Started != nil && *st.Started
		}
		if !done {
			open = append(open, spec.Name)
		}
	}
	if len(open) > 0 && !holds(old, v1.PodInitialized) { // once true it stays
		c.Status, c.Reason = v1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", open)
	}
	return c
}

func containersReady(pod *v1.Pod, s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	switch s.Phase {
	case v1.PodSucceeded:
		c.Reason = podCompleted
		return c
	case v1.PodFailed:
		c.Reason = podFailed
		return c
	}
	var unready []string
	check := func(statuses []v1.ContainerStatus, name string) {
		if st, _ := podutil.GetContainerStatus(statuses, name); !st.Ready {
			unready = append(unready, name)
		}
	}
	for i := range pod.Spec.InitContainers {
		if spec := &pod.Spec.InitContainers[i]; podutil.IsRestartableInitContainer(spec) {
			check(s.InitContainerStatuses, spec.Name)
		}
	}
	for i := range pod.Spec.Containers {
		check(s.ContainerStatuses, pod.Spec.Containers[i].Name)
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = v1.ConditionTrue
	return c
}

// gated is condition Ready: ContainersReady and every readiness gate ("Pod readiness").
func gated(pod *v1.Pod, s *v1.PodStatus, ready v1.PodCondition) v1.PodCondition {
	ready.Type = v1.PodReady
	if ready.Status != v1.ConditionTrue {
		return ready
	}
	var open []string
	for _, gate := range pod.Spec.ReadinessGates {
		_, c := podutil.GetPodConditionFromList(s.Conditions, gate.ConditionType)
		if c == nil {
			open = append(open, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		} else if c.Status != v1.ConditionTrue {
			open = append(open, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), c.Status))
		}
	}
	if len(open) > 0 {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(open, ", ")
	}
	return ready
}
