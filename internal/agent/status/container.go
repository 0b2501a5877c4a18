package status

import (
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// Waiting and terminated reasons that are the status' own; others come with a plan.Failure.
const (
	containerCreating      = "ContainerCreating"
	podInitializing        = "PodInitializing"
	containerStatusUnknown = "ContainerStatusUnknown"
	restartingAll          = "RestartingAllContainers"
)

// Runtime prefixes container ids in the API, as in `peapod://ID`.
const Runtime = "peapod"

// containers computes the statuses of one list of containers: init containers in the order of the spec,
// others by name, as upstream does.
func containers(pod *v1.Pod, specs []v1.Container, kind plan.Kind, in Input, old []v1.ContainerStatus) []v1.ContainerStatus {
	out := make([]v1.ContainerStatus, 0, len(specs))
	for i := range specs {
		previous, _ := podutil.GetContainerStatus(old, specs[i].Name)
		s := container(pod, &specs[i], in, previous)
		if kind == plan.Init && !in.restarting {
			forgotten(pod, &specs[i], in.Seen, &s)
		}
		if kind != plan.Ephemeral { // these have no probes, and upstream says neither started nor ready of them
			probes(&specs[i], kind == plan.Init, in.Seen.Latest(specs[i].Name), &s)
		}
		out = append(out, s)
	}
	if kind != plan.Init {
		slices.SortFunc(out, func(a, b v1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

// container computes one container's status but for started and ready.
func container(pod *v1.Pod, spec *v1.Container, in Input, old v1.ContainerStatus) v1.ContainerStatus {
	s := v1.ContainerStatus{
		Name: spec.Name, Image: spec.Image,
		State:                v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: containerCreating}},
		RestartCount:         old.RestartCount,
		LastTerminationState: old.LastTerminationState,
	}
	if len(pod.Spec.InitContainers) > 0 {
		s.State.Waiting.Reason = podInitializing
	}
	if old.State.Terminated != nil {
		s = *old.DeepCopy()
	}
	attempts := attemptsOf(in.Seen, spec.Name)
	if len(attempts) > 0 && pending(in.Seen, attempts[0]) {
		// Being started: until postStart has returned the container is as it was before.
		attempts = attempts[1:]
	}
	switch {
	case len(attempts) > 0:
		newest := attempts[0]
		s = seenContainer(newest)
		s.RestartCount = max(s.RestartCount, old.RestartCount)
		s.LastTerminationState = old.LastTerminationState
		if old.State.Terminated != nil && old.ContainerID != s.ContainerID {
			s.LastTerminationState = old.State
			if newest.State == plan.Running && s.RestartCount == old.RestartCount {
				s.RestartCount++ // the engine has lost count
			}
		}
		if len(attempts) > 1 {
			s.LastTerminationState = reported(seenContainer(attempts[1]).State, old.State, old.LastTerminationState)
		}
		s.State = reported(s.State, old.State)
		if newest.State == plan.Unknown {
			lost(old, &s)
		}
		resources(spec, newest, &s)
	case in.restarting && old.ContainerID != "" && old.State.Waiting == nil && in.Seen.Latest(spec.Name) == nil:
		const message = "The container is removed because RestartAllContainers in place"
		s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: restartingAll, Message: message}}
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{Reason: restartingAll, Message: message, ExitCode: 137}
		s.RestartCount = old.RestartCount + 1
	case old.State.Running != nil && old.ContainerID != "" && !in.Seen.Starting(spec.Name):
		vanished(pod, old, &s)
	}
	s.VolumeMounts = volumeMounts(spec)
	if f, ok := in.Seen.Failures[spec.Name]; ok && waits(pod, spec, attempts) && !in.Finished {
		if s.State.Terminated != nil {
			s.LastTerminationState = s.State
		}
		s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}}
	}
	return s
}

// reported is what was reported before of the same ended attempt, if anything: its message may be gone by now.
func reported(s v1.ContainerState, before ...v1.ContainerState) v1.ContainerState {
	for _, b := range before {
		if s.Terminated != nil && b.Terminated != nil && b.Terminated.ContainerID == s.Terminated.ContainerID {
			return b
		}
	}
	return s
}

// pending tells whether the attempt is still being started.
func pending(seen *plan.Observed, c *plan.Container) bool {
	return c.State == plan.Created || c.State == plan.Running && !c.PostStartDone
}

// attemptsOf returns the attempts of the named container, newest first.
func attemptsOf(seen *plan.Observed, name string) []*plan.Container {
	var out []*plan.Container
	for i := range seen.Containers {
		if seen.Containers[i].Name == name {
			out = append(out, &seen.Containers[i])
		}
	}
	return out
}

// waits tells whether the container is to be started (again), so that a failure to start is its state.
func waits(pod *v1.Pod, spec *v1.Container, attempts []*plan.Container) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	if len(attempts) == 0 || attempts[0].State != plan.Exited {
		return len(attempts) == 0 || attempts[0].State != plan.Running
	}
	if i := slices.IndexFunc(pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == spec.Name }); i >= 0 {
		if !podutil.IsRestartableInitContainer(spec) && attempts[0].ExitCode == 0 {
			return false
		}
	}
	return podutil.ContainerShouldRestart(*spec, pod.Spec, attempts[0].ExitCode)
}

// lost describes a container that ran and of which the engine cannot tell any more whether it does.
func lost(old v1.ContainerStatus, s *v1.ContainerStatus) {
	switch {
	case old.State.Running != nil:
		s.State = unlocated()
		s.RestartCount = old.RestartCount + 1
	case old.State.Terminated != nil && old.ContainerID == s.ContainerID:
		s.State = old.State
	}
}

// unlocated is the state of a container whose end nobody saw.
func unlocated() v1.ContainerState {
	return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason:   containerStatusUnknown,
		Message:  "The container could not be located when the pod was terminated",
		ExitCode: plan.StatusUnknownCode,
	}}
}

// forgotten describes a regular init container of which nothing is known, though app containers have been made: it was done.
func forgotten(pod *v1.Pod, spec *v1.Container, seen *plan.Observed, s *v1.ContainerStatus) {
	if podutil.IsRestartableInitContainer(spec) || s.State.Waiting == nil || seen.Latest(spec.Name) != nil {
		return
	}
	for i := range pod.Spec.Containers {
		if app := seen.Latest(pod.Spec.Containers[i].Name); app != nil && app.State != plan.Unknown {
			s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				Reason:  "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
			}}
			return
		}
	}
}

// vanished describes a container that ran and that the engine knows no more.
func vanished(pod *v1.Pod, old v1.ContainerStatus, s *v1.ContainerStatus) {
	if s.LastTerminationState.Terminated == nil {
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{
			Reason:   containerStatusUnknown,
			Message:  "The container could not be located when the pod was deleted.  The container used to be Running",
			ExitCode: plan.StatusUnknownCode,
		}
		if pod.DeletionTimestamp == nil {
			s.RestartCount = old.RestartCount + 1
		}
	}
}

// seenContainer converts one attempt.
func seenContainer(c *plan.Container) v1.ContainerStatus {
	id := Runtime + "://" + c.ID
	s := v1.ContainerStatus{
		Name: c.Name, RestartCount: int32(c.Attempt), Image: c.Image, ImageID: c.ImageRef,
		ContainerID: id, User: c.User, StopSignal: c.StopSignal,
	}
	switch c.State {
	case plan.Running:
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt).Rfc3339Copy()}
	case plan.Exited:
		s.State.Terminated = &v1.ContainerStateTerminated{
			ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: id,
			StartedAt: instant(c.StartedAt), FinishedAt: instant(c.FinishedAt),
		}
	default:
		s.State.Waiting = &v1.ContainerStateWaiting{}
	}
	return s
}

// instant converts a time of an ended attempt. What never was, as the start of a container that could not be started,
// is the epoch, as upstream writes CRI's zero.
func instant(t time.Time) metav1.Time {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return metav1.NewTime(t).Rfc3339Copy()
}

// resources fills the fields resources (what is enforced) and allocatedResources (what is granted).
func resources(spec *v1.Container, c *plan.Container, s *v1.ContainerStatus) {
	s.AllocatedResources = spec.Resources.Requests
	s.Resources = spec.Resources.DeepCopy()
	if c.State != plan.Running || c.Resources == nil {
		return
	}
	overlay := func(into, from v1.ResourceList) {
		for name, quantity := range from {
			if _, ok := into[name]; ok {
				into[name] = quantity.DeepCopy()
			}
		}
	}
	overlay(s.Resources.Limits, c.Resources.Limits)
	overlay(s.Resources.Requests, c.Resources.Requests)
}

func volumeMounts(spec *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range spec.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// probes fills started and ready. Started: running, postStart returned and startup probe passed. Ready:
// started and readiness probe passed; a regular init container is ready once it has succeeded.
func probes(spec *v1.Container, init bool, c *plan.Container, s *v1.ContainerStatus) {
	started := s.State.Running != nil && c != nil && c.Probes.Started
	s.Started = &started
	s.Ready = false
	if init && !podutil.IsRestartableInitContainer(spec) {
		s.Ready = succeeded(s.State)
		return
	}
	s.Ready = started && c.Probes.Ready
}
