package plan

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// inits plans the init containers ("Init Containers": one after the other, each must succeed; "Sidecar
// Containers": an init container with restartPolicy Always counts as done once it has started, and is
// kept running). initialized means that app containers may start; failed that the Pod has failed.
func inits(pod *v1.Pod, seen *Observed, now time.Time, d *Decision, starts *[]Action) (initialized, failed bool) {
	initialized = appStarted(pod, seen)
	last := lastInit(pod, seen)
	open := !initialized // the sequence has not reached its end
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sidecar := podutil.IsRestartableInitContainer(c)
		if !sidecar && (initialized || i < last) {
			continue // done before; the record may be gone
		}
		latest := seen.active(c.Name)
		switch {
		case latest == nil && !open && !initialized:
			continue // its turn has not come
		case latest == nil || latest.State == Created || latest.State == Unknown:
			if latest == nil && i < last && !sidecar {
				continue
			}
			start(seen, c, Init, now, d, starts)
			open = false
		case latest.State == Running:
			if sidecar {
				open = keepSidecar(pod, c, latest, seen, d) && open
			} else {
				if !latest.PostStartDone {
					d.add(FinishStart{Name: c.Name, ID: latest.ID})
				}
				open = false
			}
		case sidecar:
			start(seen, c, Init, now, d, starts)
			open = false
		case latest.ExitCode == 0:
		case podutil.ContainerShouldRestart(*c, pod.Spec, latest.ExitCode):
			start(seen, c, Init, now, d, starts)
			open = false
		default:
			return false, true
		}
	}
	return initialized || open, false
}

// keepSidecar looks after a running sidecar and tells whether the next container may start.
func keepSidecar(pod *v1.Pod, c *v1.Container, latest *Container, seen *Observed, d *Decision) bool {
	if latest.Changed {
		d.add(kill(pod, c, latest, Changed, fmt.Sprintf("Init container %s definition changed", c.Name)))
		return false
	}
	if cause, bad := probeFailed(latest); bad {
		d.add(kill(pod, c, latest, cause, probeMessage("Init container", c.Name, cause, false)))
		return false
	}
	if !latest.PostStartDone {
		d.add(FinishStart{Name: c.Name, ID: latest.ID})
		return false
	}
	resize(pod, c, latest, seen, d)
	return latest.Probes.Started
}

// appStarted tells whether an app container has started in the current sandbox: the Pod is initialized for good.
func appStarted(pod *v1.Pod, seen *Observed) bool {
	for i := range pod.Spec.Containers {
		if c := seen.active(pod.Spec.Containers[i].Name); c != nil && c.State != Created {
			return true
		}
	}
	return false
}

// lastInit is the index of the last init container with an attempt in the current sandbox, -1 if none has.
func lastInit(pod *v1.Pod, seen *Observed) int {
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		if seen.active(pod.Spec.InitContainers[i].Name) != nil {
			return i
		}
	}
	return -1
}
