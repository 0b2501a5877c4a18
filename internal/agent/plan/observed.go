package plan

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// State is what the engine says of a container.
type State int

// The states of a container, in the order in which it passes through them.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Observed is everything the agent knows of one Pod at one instant. It is a snapshot: whoever
// builds it gives it away and never changes it afterwards.
type Observed struct {
	// Sandboxes holds every sandbox that the engine has for the Pod, newest first.
	Sandboxes []Sandbox
	// Containers holds every attempt that the engine has for the Pod, newest first.
	Containers []Container
	// Volumes tells how far the Pod's volumes are.
	Volumes Volumes
	// Images holds, by container name, the outcome of making the image present for the next attempt.
	Images map[string]Image
	// InFlight has the Key of each action that is being carried out now.
	InFlight map[string]bool
	// Failures holds, by container name, why the last attempt to start it failed ("" stands for the sandbox).
	Failures map[string]Failure
	// Backoff holds, by container name, the restart back-off.
	Backoff map[string]Backoff
	// Renew has the containers that were killed to be started anew, whatever the restart policy says.
	Renew map[string]bool
	// PodResize is true when the limits of the Pod as a whole differ from those granted.
	PodResize bool
	// ResizeFailed is when a granted resize failed last, zero if it did not.
	ResizeFailed time.Time
	// ResizePending and ResizeInProgress are the conditions of that name, nil when they do not hold.
	ResizePending, ResizeInProgress *v1.PodCondition
	// StartTime is when this agent first saw the Pod (status.startTime).
	StartTime time.Time
	// Ended is set once the agent itself has decided that the Pod has failed: it never un-decides.
	Ended *End
	// Gone is true when the API object exists no longer: what is left is to be removed at once.
	Gone bool
}

// Sandbox is one Pod sandbox.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	IPs       []string
	CreatedAt time.Time
}

// Container is one attempt of one container.
type Container struct {
	ID, Name, SandboxID              string
	Attempt                          int
	State                            State
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
	Image, ImageRef                  string
	StopSignal                       *v1.Signal
	User                             *v1.ContainerUser
	// Resources are those that the kernel enforces, nil when the engine does not tell.
	Resources *v1.ResourceRequirements
	// Changed is true when the spec has changed since in a way that makes it another container: its image.
	Changed bool
	// Resize says which of its resources differ from those granted, nil for none.
	Resize *Resize
	// PostStartDone is true when the container has no postStart hook or the hook has returned.
	PostStartDone bool
	// PostStartFailed is true when the hook has failed; the container is killed for it.
	PostStartFailed bool
	// PreStopDone is true when the preStop hook has run, however it ended.
	PreStopDone bool
	// Probes holds what the probes say.
	Probes Probes
}

// Resize tells which resources of a running container differ from those granted ("Resize CPU and Memory Resources").
type Resize struct{ CPU, Memory bool }

// Probes are the results of a container's probes. A probe that is not defined never fails, and
// counts as passed for Started and Ready.
type Probes struct {
	Started, Ready                bool
	LivenessFailed, StartupFailed bool
}

// Volumes is the progress of volume set-up.
type Volumes struct {
	Ready    bool
	TornDown bool
	// Failed is when set-up failed last, zero if it did not; Delay is how long the next try waits from then.
	Failed time.Time
	Delay  time.Duration
}

// NextDelay is how long to wait after one more failed set-up: 500 ms, doubling to about two minutes, as upstream's
// volume manager does.
func (v Volumes) NextDelay() time.Duration {
	return min(max(2*v.Delay, 500*time.Millisecond), 2*time.Minute+2*time.Second)
}

// Image is the outcome of one attempt to make an image present.
type Image struct {
	// Ref is what the engine calls the image, empty until it is present.
	Ref string
	// Failed is when the last attempt failed, zero if none did; Retry is when the next may begin.
	Failed, Retry time.Time
	// Delay is the back-off that Retry was computed with.
	Delay time.Duration
}

// Failure is why something could not be started: a waiting reason in upstream's spelling.
type Failure struct {
	Reason, Message string
	At              time.Time
}

// Backoff is the state of one exponential back-off: Delay counts from the container's end.
type Backoff struct {
	Delay   time.Duration
	Updated time.Time
	// Max is the longest delay that the node allows; zero means BackoffMax.
	Max time.Duration
}

// End is a decision of the agent that the Pod has failed as a whole, e.g. DeadlineExceeded.
type End struct {
	Reason, Message string
	// Grace bounds the termination, in seconds; nil means the Pod's own.
	Grace *int64
}

// Sandbox returns the newest sandbox, nil if there is none.
func (o *Observed) Sandbox() *Sandbox {
	if len(o.Sandboxes) == 0 {
		return nil
	}
	return &o.Sandboxes[0]
}

// ReadySandbox returns the newest sandbox if it is ready.
func (o *Observed) ReadySandbox() *Sandbox {
	if s := o.Sandbox(); s != nil && s.Ready {
		return s
	}
	return nil
}

// Latest returns the newest attempt of the named container, nil if there is none.
func (o *Observed) Latest(name string) *Container {
	for i := range o.Containers {
		if o.Containers[i].Name == name {
			return &o.Containers[i]
		}
	}
	return nil
}

// active returns the newest attempt of the named container in the newest sandbox.
func (o *Observed) active(name string) *Container {
	sandbox := o.Sandbox()
	if c := o.Latest(name); c != nil && sandbox != nil && c.SandboxID == sandbox.ID {
		return c
	}
	return nil
}

// Starting tells whether an attempt of the named container is being started now.
func (o *Observed) Starting(name string) bool {
	return o.InFlight[startKey(name)]
}
