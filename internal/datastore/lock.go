package datastore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The folders that one process at a time uses, as messages name them.
const (
	dataFolder = "data folder"
	runFolder  = "run folder"
)

// InUseError says that another process has the data or the run folder.
type InUseError struct {
	What string // "data folder" or "run folder"
	Dir  string
	PID  string // as that process wrote it; empty if it has not yet
}

func (e *InUseError) Error() string {
	if e.PID == "" {
		return fmt.Sprintf("cannot use %s %s: another peapod is using it", e.What, e.Dir)
	}
	return fmt.Sprintf("cannot use %s %s: another peapod (pid %s) is using it", e.What, e.Dir, e.PID)
}

// lock is an advisory lock on a folder. The kernel drops it with the process, so a crash leaves nothing to clean up.
type lock struct{ file *os.File }

func lockDir(what, dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use %s %s: %w", what, dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s %s: %w", what, dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot lock %s %s: %w", what, dir, err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 16))
		return nil, &InUseError{What: what, Dir: dir, PID: strings.TrimSpace(string(pid))}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot write to %s %s: %w", what, dir, err)
	}
	return &lock{f}, nil
}

// release leaves the file: removing it would let two processes lock two different files of the same name.
func (l *lock) release() error { return l.file.Close() }
