package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// phase computes status.phase from the container statuses in s ("Pod Lifecycle", Pod phase). hasRun tells that an app
// container has run in the sandbox of now, ended that no container will ever be started again, so that even restartPolicy
// Always ends.
func phase(pod *v1.Pod, s *v1.PodStatus, hasRun, ended bool) v1.PodPhase {
	var pendingInit, pendingSidecar, waiting, running, stopped, final, ok, unknown int
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

// hasRun tells whether an app container has run in the sandbox of now.
func hasRun(pod *v1.Pod, seen *plan.Observed) bool {
	sandbox := seen.ReadySandbox()
	return sandbox != nil && slices.ContainsFunc(seen.Containers, func(c plan.Container) bool {
		app := slices.ContainsFunc(pod.Spec.Containers, func(spec v1.Container) bool { return spec.Name == c.Name })
		return app && c.SandboxID == sandbox.ID && (c.State == plan.Running || c.State == plan.Exited)
	})
}
