package datastore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lock takes the data folder for this process until unlock is called; the error is an *InUseError when another has it.
func Lock(dir string) (unlock func(), err error) {
	held, err := lockDir(dataFolder, dir)
	if err != nil {
		return nil, err
	}
	return func() { _ = held.release() }, nil
}

// Evict asks the process that uses the data folder, if there is one, to end (SIGTERM), waits until it has,
// and locks the folder until unlock is called.
func Evict(ctx context.Context, dir string) (unlock func(), err error) {
	held, err := lockDir(dataFolder, dir)
	var inUse *InUseError
	if errors.As(err, &inUse) {
		held, err = evict(ctx, dir, inUse)
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = held.release() }, nil
}

func evict(ctx context.Context, dir string, inUse *InUseError) (*lock, error) {
	pid, err := strconv.Atoi(inUse.PID)
	if err != nil {
		return nil, inUse
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("cannot stop the peapod with pid %d: %w", pid, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("cannot lock data folder %s: %w", dir, err)
		}
		return &lock{f}, nil
	case <-ctx.Done():
		// The waiting goroutine ends with this process, which is about to: f stays open for it.
		return nil, fmt.Errorf("cannot wait for the peapod with pid %d to end: %w", pid, ctx.Err())
	}
}
