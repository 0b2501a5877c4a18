package plan_test

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// TestSafety drives random Pods through random exits, probe results, crashes, reboots and deletions and
// checks the planner's invariants after every action.
func TestSafety(t *testing.T) {
	for seed := range int64(400) {
		random := rand.New(rand.NewSource(seed))
		m, err := newModel(randomPod(random))
		if err != nil {
			t.Fatal(err)
		}
		for step := range 60 {
			d := m.plan()
			for _, a := range d.Actions {
				if random.Intn(4) == 0 {
					continue // slow today
				}
				if broken := violation(m, a); broken != "" {
					t.Fatalf("seed %d step %d: %s: %s\n%s", seed, step, broken, a, strings.Join(m.log, "\n"))
				}
				m.do(a)
				m.log = append(m.log, a.String())
			}
			upset(random, m)
			m.now = m.now.Add(time.Duration(random.Intn(8)) * time.Second)
		}
		if m.pod.DeletionTimestamp == nil {
			m.remove(5)
		}
		m.slow = false
		if out := m.stabilize(); !strings.Contains(out, "reclaimed") {
			t.Fatalf("seed %d: a deleted pod does not end:\n%s\nafter\n%s", seed, out, strings.Join(m.log, "\n"))
		}
		m.seen.Gone = true
		m.stabilize()
		if len(m.seen.Containers)+len(m.seen.Sandboxes) != 0 {
			t.Fatalf("seed %d: something is left: %+v", seed, m.seen)
		}
	}
}

// violation names the safety rule that the action would break, if any.
func violation(m *model, a plan.Action) string {
	start, ok := a.(plan.StartContainer)
	if !ok {
		if broken := hookViolation(m, a); broken != "" {
			return broken
		}
		if _, ok := a.(plan.CreateSandbox); ok && (m.pod.DeletionTimestamp != nil || podutil.IsPodPhaseTerminal(m.pod.Status.Phase)) {
			return "an ending pod gets a sandbox"
		}
		return ""
	}
	spec := plan.Spec(m.pod, start.Name)
	switch latest := m.seen.Latest(start.Name); {
	case m.pod.DeletionTimestamp != nil || m.seen.Ended != nil || podutil.IsPodPhaseTerminal(m.pod.Status.Phase):
		return "an ending pod starts a container"
	case m.seen.ReadySandbox() == nil || !m.seen.Volumes.Ready:
		return "a container starts before its sandbox and volumes"
	case plan.RestartsAll(m.pod, &m.seen):
		return "a container starts before all that are to start anew are gone"
	case latest != nil && latest.State == plan.Running:
		return "a container has two attempts alive"
	case latest != nil && latest.State != plan.Created && start.Kind == plan.App && m.pod.Spec.RestartPolicy == v1.RestartPolicyNever:
		return "restartPolicy Never restarts"
	case latest != nil && start.Attempt != latest.Attempt+1 && !(latest.State == plan.Created && start.Attempt == latest.Attempt):
		return "the restart count jumps"
	}
	if start.Kind == plan.App {
		if before := blocking(m, spec.Name); before != "" && !start.Hold {
			return "it starts before " + before + ", which is in its postStart hook"
		}
		for i := range m.pod.Spec.InitContainers {
			c := &m.pod.Spec.InitContainers[i]
			latest := m.seen.Latest(c.Name)
			if !podutil.IsRestartableInitContainer(c) && (latest == nil || latest.State != plan.Exited || latest.ExitCode != 0) {
				return fmt.Sprintf("app container %s starts before init container %s is done", spec.Name, c.Name)
			}
		}
	}
	return ""
}

// blocking names an app container before the named one that is in its postStart hook, "" if there is none.
func blocking(m *model, name string) string {
	for i := range m.pod.Spec.Containers {
		c := &m.pod.Spec.Containers[i]
		if c.Name == name {
			break
		}
		if latest := m.seen.Latest(c.Name); latest != nil && latest.State == plan.Running && !latest.PostStartDone {
			return c.Name
		}
	}
	return ""
}

// hookViolation names the rule about preStop hooks on completion that the action would break, if any.
func hookViolation(m *model, a plan.Action) string {
	sandbox := m.seen.ReadySandbox()
	for i := range m.seen.Containers {
		c := &m.seen.Containers[i]
		switch a := a.(type) {
		case plan.KillContainer:
			if a.ID == c.ID && a.Cause == plan.Completed && (c.State != plan.Exited || c.PreStopDone || sandbox == nil || sandbox.ID != c.SandboxID) {
				return "a preStop hook runs for a container that has had it, or has nowhere to run"
			}
		case plan.StopSandbox:
			spec := plan.Spec(m.pod, c.Name)
			if m.pod.DeletionTimestamp == nil && m.pod.Annotations[plan.PreStopOnCompletion] != "" && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil &&
				m.seen.Latest(c.Name) == c && c.SandboxID == a.ID && !c.PreStopDone {
				return "a pod ends before a container has had its preStop hook"
			}
		}
	}
	return ""
}

// upset does something that may happen to a Pod at any time.
func upset(random *rand.Rand, m *model) {
	name := []string{"i", "s", "a", "b"}[random.Intn(4)]
	c := m.seen.Latest(name)
	switch random.Intn(12) {
	case 0, 1, 2:
		m.exit(name, int32(random.Intn(2)))
	case 3, 4:
		if c != nil && c.State == plan.Running {
			c.Probes.Started, c.Probes.Ready = true, true
		}
	case 5:
		if c != nil && c.State == plan.Running {
			c.Probes.LivenessFailed = true
		}
	case 10:
		if c != nil && c.State == plan.Running && !c.PostStartDone {
			c.PostStartFailed = true
		}
	case 6:
		m.crash()
	case 7:
		if random.Intn(3) == 0 {
			m.reboot()
		}
	case 8:
		m.slow = !m.slow
	case 9:
		if random.Intn(8) == 0 && m.pod.DeletionTimestamp == nil {
			m.remove(int64(random.Intn(30)))
		}
	}
}

func randomPod(random *rand.Rand) string {
	policy := []string{"Always", "OnFailure", "Never"}[random.Intn(3)]
	out := "metadata:\n  name: p\n"
	if random.Intn(2) == 0 {
		out += "  annotations: {" + plan.PreStopOnCompletion + ": \"true\"}\n"
	}
	out += "spec:\n  restartPolicy: " + policy + "\n"
	if random.Intn(2) == 0 {
		out += "  initContainers:\n  - {name: i, image: x}\n"
		if random.Intn(2) == 0 {
			out += "  - {name: s, image: x, restartPolicy: Always}\n"
		}
	}
	const hook = ", lifecycle: {postStart: {exec: {command: [\"true\"]}}}"
	out += "  containers:\n  - {name: a, image: x" + []string{"", hook}[random.Intn(2)] + "}\n"
	if random.Intn(2) == 0 {
		const rules = ", restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]"
		both := strings.TrimSuffix(hook, "}") + ", preStop: {exec: {command: [\"true\"]}}}"
		out += "  - {name: b, image: x" + both + []string{"", rules}[random.Intn(2)] + "}\n"
	}
	return out
}
