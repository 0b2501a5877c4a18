package ociruntime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// start runs sleep for so many seconds, which ctx does not end.
func start(t *testing.T, ctx context.Context, seconds string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, "sleep", seconds)
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: new(int)}
	cmd.Cancel = func() error { return nil }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestAwaitTakesNoThread(t *testing.T) {
	threads := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(tasks)
	}
	const commands = 64
	before := threads()
	var waiting sync.WaitGroup
	var running []*exec.Cmd
	for range commands {
		cmd := start(t, t.Context(), "60")
		running = append(running, cmd)
		waiting.Go(func() {
			var exit *exec.ExitError
			if err := await(t.Context(), cmd); !errors.As(err, &exit) {
				t.Errorf("ended with %v, want the signal", err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // for threads to appear, if they do
	if more := threads() - before; more > commands/2 {
		t.Errorf("%d more threads wait for %d commands", more, commands)
	}
	for _, cmd := range running {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	}
	waiting.Wait()
}

func TestAwaitGivesUpAProgramThatDoesNotDie(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := start(t, ctx, "60")
	cancel()
	begun := time.Now()
	if err := await(ctx, cmd); !errors.Is(err, context.Canceled) {
		t.Errorf("await ended with %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("await took %v", took)
	}
	pid := cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("the program has ended before: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program was not reaped")
		}
	}
}
