package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1defaults "k8s.io/kubernetes/pkg/apis/core/v1"
	"sigs.k8s.io/yaml"

	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/agent/status"
)

// model is an engine in a few lines: it carries out actions at once on an Observed of its own.
type model struct {
	now    time.Time
	pod    *v1.Pod
	seen   plan.Observed
	status v1.PodStatus
	ids    int
	slow   bool          // hooks and kills do not end by themselves
	max    time.Duration // the node's longest restart back-off, zero for the default
	refuse string        // the reason for which containers cannot be created
	log    []string      // every action carried out
}

func newModel(manifest string) (*model, error) {
	m := &model{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), pod: &v1.Pod{}}
	if err := yaml.UnmarshalStrict([]byte(manifest), m.pod); err != nil {
		return nil, err
	}
	corev1defaults.SetObjectDefaults_Pod(m.pod)
	m.pod.UID, m.pod.Generation = types.UID("uid"), 1
	m.pod.Status.Phase = v1.PodPending
	m.seen = plan.Observed{
		Images: map[string]plan.Image{}, Failures: map[string]plan.Failure{}, Backoff: map[string]plan.Backoff{},
		StartTime: m.now, Volumes: plan.Volumes{TornDown: true}, InFlight: map[string]bool{}, Renew: map[string]bool{},
	}
	return m, nil
}

func (m *model) plan() plan.Decision {
	d := plan.Plan(m.pod, &m.seen, m.now)
	if d.End != nil && m.seen.Ended == nil {
		m.seen.Ended = d.End
	}
	m.status = status.Compute(m.pod, status.Input{Seen: &m.seen, Old: m.status, Finished: d.Finished, HostIPs: []string{"192.0.2.1"}}, m.now)
	m.pod.Status = m.status
	for key := range m.seen.InFlight { // what is wanted no longer is cancelled
		if wanted := slices.ContainsFunc(d.Actions, func(a plan.Action) bool { return a.Key() == key }); !wanted && strings.HasPrefix(key, "start ") {
			delete(m.seen.InFlight, key)
		}
	}
	return d
}

// stabilize plans and carries out until nothing changes, and returns what was done.
func (m *model) stabilize() string {
	var out strings.Builder
	for range 100 {
		before := fmt.Sprintf("%+v", m.seen)
		d := m.plan()
		for _, a := range d.Actions {
			if m.do(a) {
				fmt.Fprintln(&out, a)
				m.log = append(m.log, a.String())
			}
		}
		if fmt.Sprintf("%+v", m.seen) == before {
			if !d.Wake.IsZero() {
				fmt.Fprintf(&out, "wake in %s\n", d.Wake.Sub(m.now))
			}
			if d.Reclaimed {
				fmt.Fprintln(&out, "reclaimed")
			}
			return out.String()
		}
	}
	return out.String() + "DOES NOT CONVERGE\n"
}

// do carries out one action and tells whether it changed anything.
func (m *model) do(a plan.Action) bool {
	switch a := a.(type) {
	case plan.SetupVolumes:
		m.seen.Volumes = plan.Volumes{Ready: true}
	case plan.TeardownVolumes:
		m.seen.Volumes = plan.Volumes{TornDown: true}
	case plan.CreateSandbox:
		m.ids++
		m.seen.Sandboxes = slices.Insert(m.seen.Sandboxes, 0, plan.Sandbox{
			ID: fmt.Sprintf("s%d", m.ids), Attempt: a.Attempt, Ready: true, IPs: []string{"10.88.0.2"}, CreatedAt: m.now})
	case plan.StopSandbox:
		for i := range m.seen.Sandboxes {
			if m.seen.Sandboxes[i].ID == a.ID {
				m.seen.Sandboxes[i].Ready = false
			}
		}
	case plan.RemoveSandbox:
		m.seen.Sandboxes = slices.DeleteFunc(slices.Clone(m.seen.Sandboxes), func(s plan.Sandbox) bool { return s.ID == a.ID })
		m.seen.Containers = slices.DeleteFunc(slices.Clone(m.seen.Containers), func(c plan.Container) bool { return c.SandboxID == a.ID })
	case plan.PullImage:
		m.seen.Images[a.Container] = plan.Image{Ref: "sha256:" + a.Container}
	case plan.StartContainer:
		if latest := m.seen.Latest(a.Name); latest != nil && latest.State == plan.Created {
			return m.launch(a)
		}
		if since := m.seen.BackoffSince(a.Name); !since.IsZero() {
			b := m.seen.Backoff[a.Name]
			b.Max = m.max
			m.seen.Backoff[a.Name] = b.Next(since, m.now)
		}
		delete(m.seen.Images, a.Name)
		delete(m.seen.Renew, a.Name)
		if m.refuse != "" {
			m.seen.Failures[a.Name] = plan.Failure{Reason: m.refuse, At: m.now}
			return true
		}
		delete(m.seen.Failures, a.Name)
		m.ids++
		m.seen.Containers = slices.Insert(slices.Clone(m.seen.Containers), 0, plan.Container{
			ID: fmt.Sprintf("c%d", m.ids), Name: a.Name, Attempt: a.Attempt, SandboxID: m.seen.Sandbox().ID,
			State: plan.Created, CreatedAt: m.now, PostStartDone: !m.hooked(a.Name),
		})
		if m.launch(a); a.Hold {
			m.seen.InFlight[a.Key()] = true
		}
	case plan.FinishStart:
		if m.slow {
			m.seen.InFlight[a.Key()] = true
			return false
		}
		m.seen.Latest(a.Name).PostStartDone = true
		delete(m.seen.InFlight, a.Key())
	case plan.KillContainer:
		if a.Renew {
			m.seen.Renew[a.Name] = true
		}
		if a.Hold || m.slow {
			shown := m.seen.InFlight[a.String()]
			m.seen.InFlight[a.String()] = true
			return !shown
		}
		m.preStopped(a.ID)
		if a.Cause != plan.Completed {
			m.exit(a.Name, 137)
		}
	case plan.ResizePod:
		for i := range m.seen.Containers {
			m.seen.Containers[i].Resize = nil
		}
		m.seen.PodResize = false
	case plan.RemoveContainer:
		m.seen.Containers = slices.DeleteFunc(slices.Clone(m.seen.Containers), func(c plan.Container) bool { return c.ID == a.ID })
	case plan.BackOff:
		if f := m.seen.Failures[a.Name]; f.Reason == "CrashLoopBackOff" && f.Message == a.Delay.String() {
			return false
		}
		m.seen.Failures[a.Name] = plan.Failure{Reason: "CrashLoopBackOff", Message: a.Delay.String(), At: m.now}
	case plan.BackOffPull:
		if m.seen.Failures[a.Container].Reason == "ImagePullBackOff" {
			return false
		}
		m.seen.Failures[a.Container] = plan.Failure{Reason: "ImagePullBackOff", At: m.now}
	}
	return true
}

// hooked tells whether the container has a postStart hook that takes its time.
func (m *model) hooked(name string) bool {
	spec := plan.Spec(m.pod, name)
	return m.slow && spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil
}

// launch starts the process of a container that has been made, unless it is to be held back.
func (m *model) launch(a plan.StartContainer) bool {
	if a.Hold {
		return false
	}
	spec, c := plan.Spec(m.pod, a.Name), m.seen.Latest(a.Name)
	c.State, c.StartedAt = plan.Running, m.now
	c.Probes = plan.Probes{Started: spec.StartupProbe == nil, Ready: spec.ReadinessProbe == nil}
	delete(m.seen.InFlight, a.Key())
	if m.hooked(a.Name) {
		m.seen.InFlight[a.Key()] = true
	}
	return true
}

// preStopped is the end of the container's preStop hook.
func (m *model) preStopped(id string) {
	for i := range m.seen.Containers {
		if c := &m.seen.Containers[i]; c.ID == id {
			c.PreStopDone = true
		}
	}
}

// exit ends the newest attempt of a container, if it runs.
func (m *model) exit(name string, code int32) {
	c := m.seen.Latest(name)
	if c == nil || c.State != plan.Running && c.State != plan.Unknown {
		return
	}
	c.State, c.ExitCode, c.FinishedAt, c.Reason = plan.Exited, code, m.now, "Completed"
	if code != 0 {
		c.Reason = "Error"
	}
	c.Probes = plan.Probes{}
	for key := range m.seen.InFlight {
		if strings.HasPrefix(key, "kill "+name+" ") {
			delete(m.seen.InFlight, key)
		}
	}
}

// remove marks the Pod as deleted with the given grace.
func (m *model) remove(grace int64) {
	at := metav1.NewTime(m.now.Add(time.Duration(grace) * time.Second))
	m.pod.DeletionTimestamp, m.pod.DeletionGracePeriodSeconds = &at, &grace
}

// reboot loses every process: what the engine kept on disk shows containers ended and sandboxes not ready.
func (m *model) reboot() {
	for i := range m.seen.Sandboxes {
		m.seen.Sandboxes[i].Ready = false
	}
	for i := range m.seen.Containers {
		if c := &m.seen.Containers[i]; c.State == plan.Running {
			c.State, c.ExitCode, c.FinishedAt, c.Reason = plan.Exited, 255, m.now, "Unknown"
		}
	}
	m.seen.Volumes = plan.Volumes{}
	m.crash()
}

// crash is a new agent: only what can be observed again is left.
func (m *model) crash() {
	m.seen.Images, m.seen.Failures, m.seen.Backoff = map[string]plan.Image{}, map[string]plan.Failure{}, map[string]plan.Backoff{}
	m.seen.InFlight, m.seen.Renew = map[string]bool{}, map[string]bool{}
}

// describe prints the status for people and golden files.
func (m *model) describe() string {
	var out strings.Builder
	s := &m.status
	fmt.Fprintf(&out, "phase=%s", s.Phase)
	if s.Reason != "" {
		fmt.Fprintf(&out, " reason=%s", s.Reason)
	}
	for _, c := range s.Conditions {
		if c.Status == v1.ConditionTrue {
			fmt.Fprintf(&out, " %s", c.Type)
		}
	}
	fmt.Fprintln(&out)
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&out, "%s: %s restarts=%d started=%t ready=%t", c.Name, state(c.State), c.RestartCount, c.Started != nil && *c.Started, c.Ready)
			if c.LastTerminationState.Terminated != nil {
				fmt.Fprintf(&out, " last=%s", state(c.LastTerminationState))
			}
			fmt.Fprintln(&out)
		}
	}
	return out.String()
}

func state(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated(%d,%s)", s.Terminated.ExitCode, s.Terminated.Reason)
	case s.Waiting != nil:
		return fmt.Sprintf("waiting(%s)", s.Waiting.Reason)
	}
	return "none"
}
