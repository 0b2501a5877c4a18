package status

import (
	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Phase computes status.phase from the container statuses in s ("Pod Lifecycle", Pod phase). ended tells
// that no container will ever be started again, so that even restartPolicy Always ends.
func Phase(pod *v1.Pod, s *v1.PodStatus, ended bool) v1.PodPhase {
	var pendingInit, pendingSidecar, waiting, running, stopped, final, ok, unknown int
	hasRun := false
	for i := range s.ContainerStatuses {
		c := &s.ContainerStatuses[i]
		hasRun = hasRun || c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
	}
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		c, found := podutil.GetContainerStatus(s.InitContainerStatuses, spec.Name)
		if podutil.IsRestartableInitContainer(spec) {
			switch {
			case !found:
				unknown++
			case c.State.Running != nil:
				running++
				if c.Started == nil || !*c.Started {
					pendingSidecar++
				}
			case c.State.Waiting != nil && c.LastTerminationState.Terminated == nil:
				pendingSidecar++
				waiting++
			}
			continue
		}
		end := c.State.Terminated
		if c.State.Waiting != nil {
			end = c.LastTerminationState.Terminated
		}
		switch {
		case !found || end == nil:
			pendingInit++
		case end.ExitCode != 0 && !comesBack(pod, spec, end):
			return v1.PodFailed
		}
	}
	for i := range pod.Spec.Containers {
		spec := &pod.Spec.Containers[i]
		c, found := podutil.GetContainerStatus(s.ContainerStatuses, spec.Name)
		end := c.State.Terminated
		if c.State.Waiting != nil {
			end = c.LastTerminationState.Terminated
		}
		switch {
		case !found:
			unknown++
		case c.State.Running != nil:
			running++
		case end == nil:
			waiting++
		default:
			stopped++
			if !comesBack(pod, spec, end) {
				final++
			}
			if c.State.Terminated != nil && end.ExitCode == 0 {
				ok++
			}
		}
	}
	switch {
	case pendingInit > 0 || pendingSidecar > 0 && !hasRun || waiting > 0:
		return v1.PodPending
	case running > 0 && unknown == 0:
		return v1.PodRunning
	case running == 0 && stopped > 0 && unknown == 0:
		if !ended && stopped != final {
			return v1.PodRunning
		}
		if stopped == ok {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	return v1.PodPending
}

// comesBack tells whether an ended container is to be started again.
func comesBack(pod *v1.Pod, spec *v1.Container, end *v1.ContainerStateTerminated) bool {
	return end.Reason == restartingAll || podutil.ContainerShouldRestart(*spec, pod.Spec, end.ExitCode)
}
