// Package plan decides what to do next for one Pod. It is pure: no I/O, no clock, no randomness, no
// logging; the same input gives the same output. It follows the Kubernetes documents "Pod Lifecycle",
// "Init Containers" and "Sidecar Containers".
//
// Invariants: a Pod that is deleted, ended or terminal never starts a container; a container never
// has two attempts alive; a Pod with restartPolicy Never never starts a container twice.
package plan

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Decision is what Plan wants.
type Decision struct {
	// Actions are all acts wanted now, those already in flight included.
	Actions []Action
	// Wake is when to plan again though nothing happened; zero means when something changes.
	Wake time.Time
	// End is set when the Pod fails as a whole by a rule of the agent (activeDeadlineSeconds).
	End *End
	// Finished is true when no container runs and none ever will again.
	Finished bool
	// Reclaimed is true when, besides, the sandbox is stopped and the volumes are gone: a deleted Pod's
	// API object may be removed.
	Reclaimed bool
	// Empty is true when the engine holds nothing of the Pod any more.
	Empty bool
}

// retry is how long a failed sandbox, volume set-up or container creation waits before the next try,
// as the kubelet does (its pod worker's back-off period).
const retry = 10 * time.Second

// add wants actions; wanting the same twice is wanting it once.
func (d *Decision) add(actions ...Action) {
	for _, a := range actions {
		if !d.wants(a) {
			d.Actions = append(d.Actions, a)
		}
	}
}

func (d *Decision) wants(a Action) bool {
	return slices.ContainsFunc(d.Actions, func(b Action) bool { return b.Key() == a.Key() })
}

func (d *Decision) wake(at time.Time) {
	if d.Wake.IsZero() || at.Before(d.Wake) {
		d.Wake = at
	}
}

// Plan decides what to do for pod, given what is seen, at the instant now.
func Plan(pod *v1.Pod, seen *Observed, now time.Time) Decision {
	var d Decision
	if seen.Ended == nil && pod.DeletionTimestamp == nil && !podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		if s := pod.Spec.ActiveDeadlineSeconds; s != nil && !seen.StartTime.IsZero() {
			deadline := seen.StartTime.Add(time.Duration(*s) * time.Second)
			if !now.Before(deadline) {
				d.End = &End{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
			} else {
				d.wake(deadline)
			}
		}
	}
	switch {
	case seen.Gone || pod.DeletionTimestamp != nil || seen.Ended != nil || d.End != nil || podutil.IsPodPhaseTerminal(pod.Status.Phase):
		terminate(pod, seen, now, &d)
	default:
		run(pod, seen, now, &d)
	}
	return d
}

// run brings a living Pod forward.
func run(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) {
	sandbox := seen.Sandbox()
	if sandbox == nil || !sandbox.Ready {
		if !mayRunAgain(pod, seen) {
			finish(pod, seen, now, d)
			return
		}
		prepare(pod, seen, now, d)
		newSandbox(pod, seen, now, d)
		return
	}
	for _, old := range seen.Sandboxes[1:] {
		retire(pod, seen, old, d)
	}
	if restartAll(pod, seen, d) {
		return
	}
	var l line
	initialized, failed := inits(pod, seen, now, d, &l)
	if failed {
		finish(pod, seen, now, d)
		return
	}
	// Ephemeral containers are never restarted ("Ephemeral Containers"), and wait for nobody.
	var debug line
	for i := range pod.Spec.EphemeralContainers {
		c := (*v1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if latest := seen.Latest(c.Name); latest == nil || latest.State == Created {
			debug.held = false
			start(seen, c, Ephemeral, now, d, &debug)
		}
	}
	if initialized {
		if keep := apps(pod, seen, now, d, &l); keep == 0 {
			finish(pod, seen, now, d)
			return
		}
	}
	prepare(pod, seen, now, d)
	if hold := resizePod(pod, seen, now, d); seen.Volumes.Ready && !hold {
		d.add(debug.starts...)
		d.add(l.starts...)
	}
	collect(seen, d)
}

// apps plans the app containers of an initialized Pod and counts those that live or will.
func apps(pod *v1.Pod, seen *Observed, now time.Time, d *Decision, l *line) (keep int) {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		latest := seen.active(c.Name)
		if latest != nil && latest.State == Running {
			keep++
			l.closed = l.closed || !latest.PostStartDone
			if latest.Changed {
				d.add(kill(pod, c, latest, Changed, fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)))
			} else if cause, failed := probeFailed(latest); failed {
				d.add(kill(pod, c, latest, cause, probeMessage("Container", c.Name, cause, restarts(pod, c))))
			} else if !latest.PostStartDone {
				finishStart(pod, c, latest, d)
			} else {
				resize(pod, c, latest, seen, d)
			}
			continue
		}
		switch {
		case latest != nil && latest.State == Unknown:
			keep++
			d.add(killUnknown(pod, c, latest, "Container"))
		case seen.Renew[c.Name] || shouldStart(pod, c, seen.Latest(c.Name)):
			keep++
			start(seen, c, App, now, d, l)
		case seen.Starting(c.Name):
			keep++ // the start itself is still reporting
		case complete(pod, latest, seen, now, d):
			keep++
		}
	}
	return keep
}

// finishStart looks after a running container whose postStart hook has not succeeded.
func finishStart(pod *v1.Pod, c *v1.Container, latest *Container, d *Decision) {
	if latest.PostStartFailed {
		d.add(kill(pod, c, latest, PostStart, "FailedPostStartHook"))
	} else {
		d.add(FinishStart{Name: c.Name, ID: latest.ID})
	}
}

func probeFailed(c *Container) (Cause, bool) {
	switch {
	case c.Probes.LivenessFailed:
		return Liveness, true
	case c.Probes.StartupFailed:
		return Startup, true
	}
	return "", false
}

func probeMessage(kind, name string, cause Cause, restart bool) string {
	m := fmt.Sprintf("%s %s failed %s", kind, name, cause)
	if restart {
		m += ", will be restarted"
	}
	return m
}

// prepare makes volumes and images ready; both go on while the sandbox is made.
func prepare(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) {
	volumes(seen, now, d)
	done := appStarted(pod, seen)
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; !done || podutil.IsRestartableInitContainer(c) {
			ahead(seen, c.Name, now, d)
		}
	}
	for i := range pod.Spec.Containers {
		ahead(seen, pod.Spec.Containers[i].Name, now, d)
	}
}

// ahead asks for the image of a container before its turn. What has been tried already asks again when it is tried
// again: the image may have changed by then.
func ahead(seen *Observed, name string, now time.Time, d *Decision) {
	if f, failed := seen.Failures[name]; seen.active(name) == nil && (!failed || ImageFailure(f.Reason)) {
		image(seen, name, now, d)
	}
}

// image asks for the image of the named container's next attempt and tells whether it is present.
func image(seen *Observed, name string, now time.Time, d *Decision) bool {
	im := seen.Images[name]
	switch {
	case im.Ref != "":
		return true
	case seen.Starting(name):
		return false
	case im.Failed.IsZero() || !now.Before(im.Retry) || seen.InFlight[PullImage{name}.Key()]:
		d.add(PullImage{name})
	default:
		if shown := im.Failed.Add(settle); now.Before(shown) {
			d.wake(shown)
		} else {
			d.add(BackOffPull{name})
			d.wake(im.Retry)
		}
	}
	return false
}

// volumes makes them ready.
func volumes(seen *Observed, now time.Time, d *Decision) {
	switch next := seen.Volumes.Failed.Add(seen.Volumes.Delay); {
	case seen.Volumes.Ready:
	case !seen.Volumes.Failed.IsZero() && now.Before(next) && !seen.InFlight[SetupVolumes{}.Key()]:
		d.wake(next)
	default:
		d.add(SetupVolumes{})
	}
}

func newSandbox(pod *v1.Pod, seen *Observed, now time.Time, d *Decision) {
	attempt, changed := uint32(0), false
	for i, s := range seen.Sandboxes {
		if i == 0 {
			attempt, changed = s.Attempt+1, true
		}
		if retire(pod, seen, s, d) {
			return // its containers end first
		}
	}
	failure, failed := seen.Failures[""]
	if next := failure.At.Add(retry); failed && now.Before(next) && !seen.InFlight[(CreateSandbox{}).Key()] {
		d.wake(next)
		return
	}
	d.add(CreateSandbox{Attempt: attempt, Changed: changed})
}

// retire ends what still lives in a sandbox that is not the Pod's current one, as it would end with the Pod.
func retire(pod *v1.Pod, seen *Observed, s Sandbox, d *Decision) (busy bool) {
	for i := range seen.Containers {
		c := &seen.Containers[i]
		if c.SandboxID == s.ID && (c.State == Running || c.State == Unknown) {
			d.add(kill(pod, Spec(pod, c.Name), c, Lost, ""))
			busy = true
		}
	}
	if !busy && s.Ready {
		d.add(StopSandbox{s.ID})
		busy = true
	}
	return busy
}

// collect removes old attempts: the newest two of each container stay (status and `logs --previous`).
func collect(seen *Observed, d *Decision) {
	kept := map[string]int{}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		kept[c.Name]++
		if kept[c.Name] > 2 && c.State == Exited {
			d.add(RemoveContainer{ID: c.ID, Name: c.Name})
		}
	}
	for i, s := range seen.Sandboxes {
		if i == 0 || s.Ready {
			continue
		}
		used := false
		for j := range seen.Containers {
			used = used || seen.Containers[j].SandboxID == s.ID
		}
		if !used {
			d.add(RemoveSandbox{s.ID})
		}
	}
}
