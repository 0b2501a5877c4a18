package plan

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// RestartsFor tells whether the container's resizePolicy wants a restart for a change of these resources.
func RestartsFor(c *v1.Container, r *Resize) bool {
	return r != nil && slices.ContainsFunc(c.ResizePolicy, func(p v1.ContainerResizePolicy) bool {
		changes := p.ResourceName == v1.ResourceCPU && r.CPU || p.ResourceName == v1.ResourceMemory && r.Memory
		return changes && p.RestartPolicy == v1.RestartContainer
	})
}

// resize ends a running container that only a restart gives the resources that it has been granted.
func resize(pod *v1.Pod, c *v1.Container, latest *Container, _ *Observed, d *Decision) {
	if RestartsFor(c, latest.Resize) {
		d.add(kill(pod, c, latest, Resized, fmt.Sprintf("Container %s resize requires restart", c.Name)))
	}
}

// resizePod brings the limits in force to those granted, all at once: the order of the writes depends on which grow. What
// has failed is tried again after a while. hold is true while containers must not start: their limits lie within the Pod's.
func resizePod(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) (hold bool) {
	wanted := seen.PodResize
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if c.State != Running || c.Resize == nil {
			continue
		}
		if spec := Spec(pod, c.Name); spec != nil && RestartsFor(spec, c.Resize) {
			return seen.PodResize // it ends first
		}
		wanted = true
	}
	if !wanted {
		return false
	}
	if next := seen.ResizeFailed.Add(retry); !seen.ResizeFailed.IsZero() && now.Before(next) && !seen.InFlight[ResizePod{}.Key()] {
		d.wake(next)
		return false
	}
	d.add(ResizePod{})
	return seen.PodResize
}
