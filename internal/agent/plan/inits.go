package plan

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// inits plans the init containers ("Init Containers": one after the other, each must succeed; "Sidecar
// Containers": an init container with restartPolicy Always counts as done once it has started, and is
// kept running). initialized means that app containers may start; failed that the Pod has failed.
//
// It goes from the last to the first, because the last that has begun tells how far the Pod is: records of those before
// it may be gone, and a sidecar before it that is down is started again without holding anybody up.
func inits(pod *v1.Pod, seen *Observed, now time.Time, d *Decision, l *line) (initialized, failed bool) {
	if len(pod.Spec.InitContainers) == 0 {
		return true, false
	}
	initialized = appStarted(pod, seen)
	reached := initialized // the container looked at was done before
	var begin []int
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		c := &pod.Spec.InitContainers[i]
		sidecar := podutil.IsRestartableInitContainer(c)
		latest := seen.active(c.Name)
		if latest == nil {
			if reached && sidecar {
				begin = append(begin, i)
			}
			continue
		}
		if reached && !sidecar {
			continue
		}
		done := false
		switch {
		case latest.State == Created:
			begin = append(begin, i)
		case latest.State == Unknown:
			if !sidecar && !restarts(pod, c) {
				return false, true
			}
			d.add(killUnknown(pod, c, latest, "Init container"))
		case latest.State == Running && sidecar:
			done = keepSidecar(pod, c, latest, seen, d, l)
		case latest.State == Running:
			resize(pod, c, latest, seen, d)
		case sidecar || seen.Renew[c.Name]:
			begin = append(begin, i)
		case latest.ExitCode == 0:
			done = true
		case podutil.ContainerShouldRestart(*c, pod.Spec, latest.ExitCode):
			begin = append(begin, i)
		default:
			return false, true
		}
		switch {
		case !done:
		case i == len(pod.Spec.InitContainers)-1:
			initialized = true
		case !reached:
			begin = append(begin, i+1)
		}
		reached = true
	}
	if !reached {
		begin = append(begin, 0)
	}
	for _, i := range slices.Sorted(slices.Values(begin)) {
		start(seen, &pod.Spec.InitContainers[i], Init, now, d, l)
	}
	return initialized, false
}

// keepSidecar looks after a running sidecar and tells whether it has started, so that the next container may.
func keepSidecar(pod *v1.Pod, c *v1.Container, latest *Container, seen *Observed, d *Decision, l *line) (started bool) {
	l.closed = l.closed || !latest.PostStartDone
	switch cause, bad := probeFailed(latest); {
	case cause == Startup:
		d.add(kill(pod, c, latest, cause, probeMessage("Init container", c.Name, cause, false)))
		return false
	case !latest.PostStartDone:
		finishStart(pod, c, latest, d)
		return false
	case !latest.Probes.Started:
		return false
	case latest.Changed:
		d.add(kill(pod, c, latest, Changed, fmt.Sprintf("Init container %s definition changed", c.Name)))
	case bad:
		d.add(kill(pod, c, latest, cause, probeMessage("Init container", c.Name, cause, false)))
	default:
		resize(pod, c, latest, seen, d)
	}
	return true
}

// appStarted tells whether an app container has been made in the current sandbox: the Pod is initialized for good.
func appStarted(pod *v1.Pod, seen *Observed) bool {
	for i := range pod.Spec.Containers {
		if seen.active(pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}
