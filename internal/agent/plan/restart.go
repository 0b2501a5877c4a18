package plan

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// The restart back-off of containers ("Pod Lifecycle", Container restart policy): 10 s, doubling to
// 300 s or what the node says, forgotten after twice the maximum without a restart.
const (
	BackoffBase = 10 * time.Second
	BackoffMax  = 300 * time.Second
	// settle is how long an ended container's status is shown before its back-off is, so that a watcher sees both.
	settle = time.Second
	// StatusUnknownCode is the exit code that stands for an end which nobody saw (reason ContainerStatusUnknown).
	StatusUnknownCode = 137
)

// In tells whether a container that ended at end must still wait at now, and until when.
func (b Backoff) In(end, now time.Time) (until time.Time, waits bool) {
	if b.Delay == 0 || b.expired(end) {
		return time.Time{}, false
	}
	until = end.Add(b.Delay)
	return until, now.Before(until)
}

// Next is the state after a start at now of a container that had ended at end.
func (b Backoff) Next(end, now time.Time) Backoff {
	delay := BackoffBase
	if b.Delay != 0 && !b.expired(end) {
		delay = 2 * b.Delay
	}
	return Backoff{Delay: min(delay, b.longest()), Updated: now, Max: b.Max}
}

func (b Backoff) expired(end time.Time) bool { return end.Sub(b.Updated) > 2*b.longest() }

func (b Backoff) longest() time.Duration {
	if b.Max == 0 {
		return BackoffMax
	}
	return b.Max
}

// BackoffSince is the end that the back-off of the named container's next start counts from, zero if there is none. A
// container that was killed to be started anew counts from the end before, as the kubelet kills and starts it in one go.
func (o *Observed) BackoffSince(name string) time.Time {
	skip := o.Renew[name]
	for i := range o.Containers {
		c := &o.Containers[i]
		if c.Name != name || c.State != Exited {
			continue
		}
		if c.Changed {
			break // another container has nothing to answer for
		}
		if !skip {
			return c.FinishedAt
		}
		skip = false
	}
	return time.Time{}
}

// shouldStart tells whether the container is to be started, given its newest attempt in any sandbox.
func shouldStart(pod *v1.Pod, c *v1.Container, latest *Container) bool {
	if latest == nil {
		code, ran := reportedEnd(pod, c.Name) // restarting all of a Pod's containers removes them, too
		return !ran || podutil.ContainerShouldRestart(*c, pod.Spec, code) || podutil.AllContainersCouldRestart(&pod.Spec)
	}
	if latest.State != Exited {
		return latest.State != Running
	}
	return podutil.ContainerShouldRestart(*c, pod.Spec, latest.ExitCode)
}

// restarts tells whether a container comes back that is killed, or of whose end nothing is known: rules on exit codes have
// no say, there is none yet.
func restarts(pod *v1.Pod, c *v1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

// reportedEnd is the exit code of a container that the Pod's status says has run, for when the engine knows it no more:
// of one that was running nobody knows how it ended, which the status tells as ContainerStatusUnknown.
func reportedEnd(pod *v1.Pod, name string) (code int32, ran bool) {
	s, _ := podutil.GetContainerStatus(pod.Status.ContainerStatuses, name)
	switch {
	case s.State.Running != nil:
		return StatusUnknownCode, true
	case s.State.Terminated != nil:
		return s.State.Terminated.ExitCode, true
	case s.LastTerminationState.Terminated != nil:
		return s.LastTerminationState.Terminated.ExitCode, true
	}
	return 0, false
}

// start plans the next attempt of a container that is not running.
func start(seen *Observed, c *v1.Container, kind Kind, now time.Time, d *Decision, l *line) {
	latest := seen.Latest(c.Name)
	a := StartContainer{Name: c.Name, Kind: kind}
	if latest != nil {
		a.Attempt = latest.Attempt + 1
		if latest.State == Created && seen.active(c.Name) != nil {
			// The agent stopped between creating and starting: go on with the same attempt.
			a.Attempt, a.Resume = latest.Attempt, latest.ID
		}
	}
	if seen.Starting(c.Name) {
		l.join(a, c)
		return
	}
	if l.closed {
		return // its turn comes
	}
	if since := seen.BackoffSince(c.Name); !since.IsZero() && latest.State == Exited {
		b := seen.Backoff[c.Name]
		until, waits := b.In(since, now)
		if waits && seen.Renew[c.Name] {
			until, waits = b.In(latest.FinishedAt, now) // not in one go, then
		}
		if waits {
			if shown := latest.FinishedAt.Add(settle); now.Before(shown) {
				d.wake(shown)
			} else {
				d.add(BackOff{Name: c.Name, Delay: b.Delay, Until: until})
				d.wake(until)
			}
			return
		}
	}
	if f, ok := seen.Failures[c.Name]; ok && (latest == nil || latest.State != Exited) && !ImageFailure(f.Reason) {
		if next := f.At.Add(retry); now.Before(next) {
			d.wake(next)
			return
		}
	}
	if a.Resume != "" || image(seen, c.Name, now, d) {
		l.join(a, c)
	} else if d.wants(PullImage{c.Name}) {
		l.closed = true
	}
}

// ImageFailure tells whether the waiting reason is of the image, whose retries have their own back-off.
func ImageFailure(reason string) bool {
	switch reason {
	case "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError":
		return true
	}
	return PullFailure(reason)
}

// PullFailure tells whether the waiting reason is that of a pull that has just failed.
func PullFailure(reason string) bool {
	return reason == "ErrImagePull" || reason == "RegistryUnavailable" || reason == "SignatureValidationFailed"
}

// mayRunAgain tells whether a Pod without a living sandbox gets one.
func mayRunAgain(pod *v1.Pod, seen *Observed) bool {
	if len(seen.Containers) == 0 {
		return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return shouldStart(pod, &c, nil) })
	}
	if pod.Spec.RestartPolicy == v1.RestartPolicyNever {
		return false
	}
	created := false
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		latest := seen.Latest(c.Name)
		created = created || latest != nil
		onFailure := pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure
		if c.RestartPolicy != nil {
			onFailure = *c.RestartPolicy == v1.ContainerRestartPolicyOnFailure
		}
		if succeeded := latest != nil && latest.State == Exited && latest.ExitCode == 0; !onFailure || !succeeded {
			return true
		}
	}
	return !created // all have succeeded, unless none was ever made
}
