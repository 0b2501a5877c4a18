package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What runs from one run folder is not to be taken for ended by a daemon with another.
func TestAnotherRunFolder(t *testing.T) {
	dir := t.TempDir()
	first := Config{DataDir: dir, RunDir: filepath.Join(dir, "run1"), Log: slog.New(slog.DiscardHandler)}
	second := first
	second.RunDir = filepath.Join(dir, "run2")
	if err := errors.Join(first.remember(), os.MkdirAll(engineRunDir(first.RunDir), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := second.remember(); err == nil || !strings.Contains(err.Error(), "cannot use run folder "+second.RunDir) {
		t.Errorf("got %v", err)
	}
	if in, ok, err := recall(dir); err != nil || !ok || in.RunDir != first.RunDir {
		t.Errorf("recalled %+v, %v, %v", in, ok, err)
	}
	if err := first.remember(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(first.RunDir); err != nil { // a reboot, or peapod down
		t.Fatal(err)
	}
	if err := second.remember(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, instanceFile), nil, 0o600); err != nil { // damaged
		t.Fatal(err)
	}
	if err := second.remember(); err != nil {
		t.Error(err)
	}
}
