package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// A container that could not be started has no start: upstream writes the epoch, which clients print as such.
func TestStartOfWhatNeverStarted(t *testing.T) {
	end := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := seenContainer(&plan.Container{ID: "c", Name: "app", State: plan.Exited, ExitCode: 128, Reason: "StartError", FinishedAt: end})
	if got := s.State.Terminated.StartedAt; got.Unix() != 0 || got.IsZero() {
		t.Errorf("startedAt %v, want the epoch", got)
	}
	if got := s.State.Terminated.FinishedAt; !got.Time.Equal(end) {
		t.Errorf("finishedAt %v, want %v", got, end)
	}
}

// The termination messages of a Pod share 12 KiB, as the documentation of pod failure reasons says.
func TestMessagesAreShortenedEvenly(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: make([]v1.Container, 24)}}
	seen := &plan.Observed{}
	for i := range pod.Spec.Containers {
		name := fmt.Sprintf("c%02d", i)
		pod.Spec.Containers[i].Name = name
		seen.Containers = append(seen.Containers, plan.Container{ID: name, Name: name, State: plan.Exited, Message: strings.Repeat("m", 4096)})
	}
	s := Compute(pod, Input{Seen: seen}, time.Unix(0, 0))
	for _, c := range s.ContainerStatuses {
		if n := len(c.State.Terminated.Message); n != 512 {
			t.Errorf("the message of %s has %d bytes, want 512", c.Name, n)
		}
	}
	if len(seen.Containers[0].Message) != 4096 {
		t.Error("the observation was changed")
	}
}

// The phase Unknown is the node controller's, and only while the node is lost: the agent says what is true.
func TestUnknownIsOver(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
	pod.Status = v1.PodStatus{Phase: v1.PodUnknown, Reason: "NodeLost", Message: "Node n which was running pod p is unresponsive"}
	seen := &plan.Observed{
		Sandboxes:  []plan.Sandbox{{ID: "s", Ready: true}},
		Containers: []plan.Container{{ID: "c", Name: "app", SandboxID: "s", State: plan.Running, PostStartDone: true}},
	}
	s := Compute(pod, Input{Seen: seen, Old: pod.Status}, time.Now())
	if s.Phase != v1.PodRunning || s.Reason != "" || s.Message != "" {
		t.Errorf("the Pod is %s %q %q", s.Phase, s.Reason, s.Message)
	}
}
