package ociruntime

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCommandsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Launcher{work: make(chan work), later: make(chan work), closed: make(chan struct{})}
		for range 10 {
			go func() { l.later <- work{} }()
		}
		go func() { l.work <- work{monitor: true} }()
		synctest.Wait() // all ask at once
		if w, ok := l.next(); !ok || !w.monitor {
			t.Error("a command went first")
		}
		for range 10 {
			if w, ok := l.next(); !ok || w.monitor {
				t.Error("a command was not run")
			}
		}
		close(l.closed)
		if _, ok := l.next(); ok {
			t.Error("a closed launcher has work")
		}
	})
}

// The timeout of a command does not begin while it waits for its start.
func TestTimeoutBeginsWithTheCommand(t *testing.T) {
	l, err := NewLauncher(LauncherConfig{Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := filepath.Join(t.TempDir(), "runtime")
	const text = `#!/bin/sh
for last; do :; done
while [ "$1" != --pid-file ]; do shift; done
echo $$ > $2
if [ "$last" = hangs ]; then exec sleep 60; fi
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	r := New("script", script, t.TempDir(), l)
	const timeout = 500 * time.Millisecond
	run := func(id string) error {
		_, err := r.Exec(t.Context(), Exec{ID: id, Process: &specs.Process{}, Dir: t.TempDir(), Timeout: timeout})
		return err
	}
	l.work <- work{start: func() { time.Sleep(2 * timeout) }} // keeps it from starting anything
	if err := run("quick"); err != nil {
		t.Errorf("a command that had to wait failed: %v", err)
	}
	if err := run("hangs"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that hangs ended with %v", err)
	}
}
