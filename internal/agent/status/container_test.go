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
