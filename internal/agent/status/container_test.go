package status

import (
	"testing"
	"time"

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
