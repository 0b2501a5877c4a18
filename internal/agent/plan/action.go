package plan

import (
	"fmt"
	"time"
)

// Action is one act that the plan wants done. Actions are idempotent: "already so" is success.
// Two actions with the same Key are the same act: while it is being carried out it is not begun
// again, and it is cancelled when a later plan no longer names it (unless it says otherwise).
type Action interface {
	// Key identifies the act within its Pod.
	Key() string
	// String is stable: tests compare it.
	String() string
}

// The actions. Each is documented with what carrying it out means.
type (
	// SetupVolumes mounts and fills all volumes of the Pod.
	SetupVolumes struct{}
	// TeardownVolumes unmounts them and removes the Pod's folder.
	TeardownVolumes struct{}
	// CreateSandbox makes the sandbox with the given attempt number.
	CreateSandbox struct {
		Attempt uint32
		// Changed is true when an earlier sandbox has died (event SandboxChanged).
		Changed bool
	}
	// StopSandbox ends a sandbox: its network and namespaces go, its record stays.
	StopSandbox struct{ ID string }
	// RemoveSandbox removes the record of a sandbox, with all its containers.
	RemoveSandbox struct{ ID string }
	// PullImage makes the image of a container present, as its pull policy asks.
	PullImage struct{ Container string }
	// StartContainer creates (unless Resume names one already created) and starts an attempt, then runs postStart.
	StartContainer struct {
		Name    string
		Kind    Kind
		Attempt int
		Resume  string
		// Hold keeps its process back until a later plan lets go: containers start in order.
		Hold bool
	}
	// FinishStart runs the postStart hook of a container that runs already: the agent was interrupted in between. The user
	// is told if that hook had begun.
	FinishStart struct{ Name, ID string }
	// KillContainer runs preStop unless it has run, sends the stop signal, waits, and kills at Deadline. Of a container
	// that has completed it runs preStop only, in a fresh process.
	KillContainer struct {
		ID, Name string
		Cause    Cause
		Message  string
		// Grace is how many seconds the container has in all; Deadline, if set, is when they are over.
		Grace    int64
		Deadline time.Time
		// Hold keeps the stop signal back (not the preStop hook) until a later plan lets go: sidecars end last.
		Hold bool
		// Renew is true when it is to be started anew, whatever its exit code will be.
		Renew bool
	}
	// ResizePod gives the Pod, and its running containers, the limits that have been granted.
	ResizePod struct{}
	// RemoveContainer removes an ended attempt that nobody needs any more.
	RemoveContainer struct{ ID, Name string }
	// BackOffPull tells that the next pull waits (event BackOff, waiting reason ImagePullBackOff).
	BackOffPull struct{ Container string }
	// BackOff tells that a restart waits (event BackOff, waiting reason CrashLoopBackOff).
	BackOff struct {
		Name  string
		Delay time.Duration
		Until time.Time
	}
)

// Kind tells init, app and ephemeral containers apart.
type Kind string

// The kinds of container.
const (
	Init      Kind = "init container"
	App       Kind = "container"
	Ephemeral Kind = "ephemeral container"
)

// Cause is why a container is killed; it decides the grace period (probe-level or the Pod's).
type Cause string

// The causes.
const (
	Deleted   Cause = "deleted"
	Ending    Cause = "ending"
	Liveness  Cause = "liveness probe"
	Startup   Cause = "startup probe"
	Lost      Cause = "sandbox lost"
	PostStart Cause = "postStart hook"
	Changed   Cause = "definition changed"
	Resized   Cause = "resize"
	// NotKnown kills what the engine cannot tell the state of, so that it does not run twice.
	NotKnown   Cause = "unknown state"
	AllRestart Cause = "restart of all containers"
	// Completed is the cause when the container has ended by itself and its Pod wants preStop all the same.
	Completed Cause = "completed"
)

func startKey(name string) string { return "start " + name }

func (SetupVolumes) Key() string      { return "setup volumes" }
func (TeardownVolumes) Key() string   { return "teardown volumes" }
func (CreateSandbox) Key() string     { return "create sandbox" }
func (a StopSandbox) Key() string     { return "stop sandbox " + a.ID }
func (a RemoveSandbox) Key() string   { return "remove sandbox " + a.ID }
func (a PullImage) Key() string       { return "pull image for " + a.Container }
func (a StartContainer) Key() string  { return startKey(a.Name) }
func (a FinishStart) Key() string     { return startKey(a.Name) }
func (a KillContainer) Key() string   { return "kill " + a.ID }
func (ResizePod) Key() string         { return "resize pod" }
func (a RemoveContainer) Key() string { return "remove " + a.ID }
func (a BackOff) Key() string         { return "back off " + a.Name }
func (a BackOffPull) Key() string     { return "back off pull for " + a.Container }

func (a SetupVolumes) String() string    { return a.Key() }
func (a TeardownVolumes) String() string { return a.Key() }
func (a CreateSandbox) String() string   { return fmt.Sprintf("create sandbox attempt=%d", a.Attempt) }
func (a StopSandbox) String() string     { return a.Key() }
func (a RemoveSandbox) String() string   { return a.Key() }
func (a PullImage) String() string       { return a.Key() }
func (a StartContainer) String() string {
	s := fmt.Sprintf("start %s %s attempt=%d", a.Kind, a.Name, a.Attempt)
	if a.Resume != "" {
		s += " resume=" + a.Resume
	}
	if a.Hold {
		s += " hold"
	}
	return s
}
func (a FinishStart) String() string { return fmt.Sprintf("finish start of %s %s", a.Name, a.ID) }
func (a KillContainer) String() string {
	s := fmt.Sprintf("kill %s %s cause=%q grace=%d", a.Name, a.ID, a.Cause, a.Grace)
	if a.Hold {
		s += " hold"
	}
	return s
}
func (a ResizePod) String() string       { return a.Key() }
func (a RemoveContainer) String() string { return fmt.Sprintf("remove container %s %s", a.Name, a.ID) }
func (a BackOffPull) String() string     { return a.Key() }
func (a BackOff) String() string         { return fmt.Sprintf("back off %s %s", a.Name, a.Delay) }
