package plan

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// minimumGrace is the least time, in seconds, that a container gets between stop signal and kill, as in the kubelet.
const minimumGrace = 2

// terminate ends a Pod that is deleted, evicted, past its deadline or terminal ("Termination of Pods").
func terminate(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) {
	alive := killAll(pod, seen, now, d)
	for key := range seen.InFlight {
		// A start that is being undone still holds the container.
		alive = alive || strings.HasPrefix(key, startKey(""))
	}
	if alive {
		return
	}
	d.Finished = true
	reclaim(seen, d)
}

// finish ends what is left of a Pod whose app containers are done: sidecars, then the sandbox and volumes.
func finish(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) {
	d.Actions = nil
	if killAll(pod, seen, now, d) {
		return
	}
	d.Finished = true
	reclaim(seen, d)
}

// killAll kills every living container; sidecars get their stop signal after the app containers have
// ended, in reverse order of their start. A container that still completes counts as one that lives.
func killAll(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) (alive bool) {
	rank := func(name string) int { // app and ephemeral containers 0, the last sidecar 1, …
		n := 0
		for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
			c := &pod.Spec.InitContainers[i]
			if podutil.IsRestartableInitContainer(c) {
				n++
				if c.Name == name {
					return n
				}
			} else if c.Name == name {
				return 0
			}
		}
		return 0
	}
	lowest := -1
	var living []*Container
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if c.State != Running && c.State != Unknown {
			if complete(pod, c, seen, now, d) {
				alive, lowest = true, 0
			}
			continue
		}
		living = append(living, c)
		if r := rank(c.Name); lowest < 0 || r < lowest {
			lowest = r
		}
	}
	for _, c := range living {
		cause := Ending
		if pod.DeletionTimestamp != nil || seen.Gone {
			cause = Deleted
		}
		k := endingKill(pod, seen, c, cause, d)
		k.Hold = rank(c.Name) > lowest
		d.add(k)
	}
	return alive || len(living) > 0
}

// endingKill is the kill of a container whose Pod ends: the end may bound the grace period, which is at least a second,
// however short it was asked for ("no matter what", calculateEffectiveGracePeriod in pkg/kubelet/pod_workers.go).
func endingKill(pod *v1.Pod, seen *Observed, c *Container, cause Cause, d *Decision) KillContainer {
	k := kill(pod, Spec(pod, c.Name), c, cause, "")
	if end := firstEnd(seen.Ended, d.End); end != nil && end.Grace != nil && pod.DeletionTimestamp == nil {
		k.Grace = *end.Grace
	}
	k.Grace = max(k.Grace, 1)
	return k
}

// PreStopOnCompletion is the annotation by which a Pod asks that the preStop hooks of containers that end by themselves
// run too, before the Pod becomes Succeeded or Failed (kubernetes issue 55807).
const PreStopOnCompletion = "peapod.dev/prestop-on-completion"

// complete plans the preStop hook of a container that has ended by itself, for good, and tells whether the Pod waits for
// it. A container that was killed has had its hook, if it had the time. Without its sandbox the hook has nowhere to run.
func complete(pod *v1.Pod, c *Container, seen *Observed, now time.Time, d *Decision) bool {
	if pod.Annotations[PreStopOnCompletion] != "true" || c == nil || c.State != Exited || c.PreStopDone || seen.active(c.Name) != c ||
		seen.ReadySandbox() == nil || seen.Volumes.TornDown {
		return false
	}
	k := endingKill(pod, seen, c, Completed, d)
	spec := Spec(pod, c.Name)
	if spec == nil || spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil || !k.Deadline.IsZero() && !now.Before(k.Deadline) {
		return false
	}
	if volumes(seen, now, d); seen.Volumes.Ready {
		d.add(k)
	}
	if !k.Deadline.IsZero() {
		d.wake(k.Deadline) // the Pod does not wait for volumes any longer
	}
	return true
}

func firstEnd(ends ...*End) *End {
	for _, e := range ends {
		if e != nil {
			return e
		}
	}
	return nil
}

// reclaim stops the sandboxes and tears the volumes down; when the API object is gone it removes all records too.
func reclaim(seen *Observed, d *Decision) {
	stopped := true
	for _, s := range seen.Sandboxes {
		if s.Ready {
			d.add(StopSandbox{s.ID})
			stopped = false
		}
	}
	if !seen.Volumes.TornDown {
		d.add(TeardownVolumes{})
		stopped = false
	}
	d.Reclaimed = stopped && !seen.InFlight[CreateSandbox{}.Key()]
	if !d.Reclaimed || !seen.Gone {
		return
	}
	for _, s := range seen.Sandboxes {
		d.add(RemoveSandbox{s.ID})
	}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		owned := false
		for _, s := range seen.Sandboxes {
			owned = owned || s.ID == c.SandboxID
		}
		if !owned {
			d.add(RemoveContainer{ID: c.ID, Name: c.Name})
		}
	}
	d.Empty = len(seen.Sandboxes) == 0 && len(seen.Containers) == 0
}

// kill plans the end of one container. The grace period is the deletion's, else the failed probe's own,
// else the Pod's (field terminationGracePeriodSeconds of Probe and PodSpec).
func kill(pod *v1.Pod, spec *v1.Container, c *Container, cause Cause, message string) KillContainer {
	k := KillContainer{ID: c.ID, Name: c.Name, Cause: cause, Message: message, Grace: minimumGrace}
	if k.Message == "" {
		k.Message = "Stopping container " + c.Name
	}
	switch cause {
	case Changed, Resized, NotKnown:
		k.Renew = true
	case Liveness, Startup:
		k.Renew = restarts(pod, spec)
	}
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		k.Grace = *pod.DeletionGracePeriodSeconds
		if pod.DeletionTimestamp != nil {
			k.Deadline = pod.DeletionTimestamp.Add(time.Second) // it is written in whole seconds, rounded down
		}
	case cause == Startup && spec != nil && spec.StartupProbe != nil && spec.StartupProbe.TerminationGracePeriodSeconds != nil:
		k.Grace = *spec.StartupProbe.TerminationGracePeriodSeconds
	case cause == Liveness && spec != nil && spec.LivenessProbe != nil && spec.LivenessProbe.TerminationGracePeriodSeconds != nil:
		k.Grace = *spec.LivenessProbe.TerminationGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		k.Grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	return k
}

// killUnknown plans the end of a container of which the engine cannot tell whether it runs.
func killUnknown(pod *v1.Pod, spec *v1.Container, c *Container, kind string) KillContainer {
	return kill(pod, spec, c, NotKnown, kind+` is in "unknown" state, try killing it before restart`)
}

// Spec finds a container of any kind in the Pod, nil if it has none of that name.
func Spec(pod *v1.Pod, name string) *v1.Container {
	for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
