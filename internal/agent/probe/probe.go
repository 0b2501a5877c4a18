// Package probe runs the startup, liveness and readiness probes of running containers.
//
// A Manager is told declaratively which containers run (Set), derives which probes must exist, runs
// each at its own times, and reports when an outcome changes. What follows from an outcome (a restart,
// a Pod that is no longer ready) is the caller's matter. The rules, thresholds, events and texts are
// those of pkg/kubelet/prober in Kubernetes 1.37; its probers of HTTP and gRPC are imported.
//
// Invariants:
//   - A probe belongs to one container ID. With a new ID it begins anew; late results of the old one
//     are dropped.
//   - At most one attempt of a probe is in flight, and a goroutine exists only while one is. All
//     waiting is one timer over one heap. Attempts that hang hold up no others.
//   - Attempts keep to a grid that begins at the first one, so that slow probes do not drift. There
//     is no random first delay.
//   - Liveness and readiness wait for the startup probe's success. A startup probe that is decided and
//     a liveness probe that failed are not run again for that container.
package probe

import (
	"context"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Kind is what a probe decides about.
type Kind int

// The kinds of probes.
const (
	Startup Kind = iota
	Liveness
	Readiness
)

func (k Kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// Outcome is what the attempts so far amount to, thresholds considered.
type Outcome int

// A startup probe begins as Unknown, liveness as Success, readiness as Failure.
const (
	Unknown Outcome = iota
	Success
	Failure
)

func (o Outcome) String() string { return [...]string{"unknown", "success", "failure"}[o] }

// Result tells that the outcome of a probe has changed.
type Result struct {
	PodUID      types.UID
	Container   string // its name
	ContainerID string
	Kind        Kind
	Outcome     Outcome
	Output      string // what the deciding attempt said; for messages only
}

// Running is a container that runs now.
type Running struct {
	Name      string
	ID        string
	StartedAt time.Time // initialDelaySeconds count from here
	PodIP     string    // where probes go that name no host
	// WasStarted and WasReady are the last status that was reported of this very container. They count
	// when the Manager sees it for the first time, so that a restart of the daemon does not make a
	// ready Pod unready. Leave them false for a container that has just been started.
	WasStarted, WasReady bool
}

// Engine is the part of the CRI runtime service that exec probes need. A command that takes longer
// than the request's timeout must end in the status DeadlineExceeded.
type Engine interface {
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
}

// Config is what a Manager needs.
type Config struct {
	Engine   Engine
	Recorder record.EventRecorder // gets the events Unhealthy and ProbeWarning
	// OnResult is called on every change of an outcome, one call at a time for each probe, from the
	// probe's goroutine. It must not block; it may call any method of the Manager.
	OnResult func(Result)
	MaxExec  int          // commands at work at the same time; 0 means 8 for each processor
	Log      *slog.Logger // nil means slog.Default()
}

// specOf returns the probe of a kind that a container defines, or nil.
func specOf(c *v1.Container, kind Kind) *v1.Probe {
	switch kind {
	case Startup:
		return c.StartupProbe
	case Liveness:
		return c.LivenessProbe
	default:
		return c.ReadinessProbe
	}
}

// probed lists the containers that may have probes: all app containers and the sidecars.
func probed(pod *v1.Pod) []*v1.Container {
	var containers []*v1.Container
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for i := range pod.Spec.Containers {
		containers = append(containers, &pod.Spec.Containers[i])
	}
	return containers
}

// target is one probe of one container: what to run, when, and what came of it.
type target struct {
	pod       *v1.Pod
	container *v1.Container
	spec      *v1.Probe
	kind      Kind
	id, podIP string
	cancel    context.CancelFunc // of the attempt in flight; nil when none is

	due    time.Time // of the next attempt, or of the one in flight
	index  int       // in the queue; -1 when not queued
	onHold bool      // decided for this container
	slow   bool      // the last attempt was, see turns

	outcome Outcome
	last    Outcome // of the last attempt
	streak  int     // attempts in a row that ended like the last one
}

// note counts one attempt and reports whether the outcome has changed by it.
func (t *target) note(attempt Outcome) (changed bool) {
	if t.last != attempt {
		t.last, t.streak = attempt, 0
	}
	t.streak++
	if attempt == Failure && t.streak < int(t.spec.FailureThreshold) ||
		attempt == Success && t.streak < int(t.spec.SuccessThreshold) {
		return false
	}
	changed = t.outcome != attempt
	t.outcome = attempt
	t.onHold = t.kind == Startup || t.kind == Liveness && attempt == Failure
	return changed
}

// period is the time between two attempts. The API defaults it to ten seconds and forbids zero.
func (t *target) period() time.Duration {
	return time.Duration(max(1, t.spec.PeriodSeconds)) * time.Second
}

// nextDue is the next point of the grid. Points that passed while an attempt ran are skipped, save the
// last one, which is made up for at once: a time.Ticker does the same.
func (t *target) nextDue(now time.Time) time.Time {
	next := t.due.Add(t.period())
	if late := now.Sub(next); late > 0 {
		next = next.Add(late.Truncate(t.period()))
	}
	return next
}
