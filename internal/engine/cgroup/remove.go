package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gone tells that the group at path exists in no hierarchy.
func (h *Hierarchy) gone(path string) bool {
	for _, dir := range h.dirs(path) {
		if _, err := os.Stat(dir); err == nil {
			return false
		}
	}
	return true
}

// Below lists the paths of the groups below path, parents first.
func (h *Hierarchy) Below(path string) ([]string, error) {
	var paths []string
	for _, dir := range h.dirs(path) {
		groups, err := subtree(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list cgroup %s: %w", path, err)
		}
		for _, group := range groups {
			if below, err := filepath.Rel(dir, group); err == nil && below != "." {
				paths = append(paths, filepath.Join(path, below))
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// Procs lists the processes in the group at path and below it, sorted. A group that is not there has none.
func (h *Hierarchy) Procs(path string) ([]int, error) {
	var pids []int
	for _, dir := range h.dirs(path) {
		groups, err := subtree(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list cgroup %s: %w", path, err)
		}
		for _, group := range groups {
			b, err := read(group, "cgroup.procs")
			// EOPNOTSUPP: a threaded group, whose processes the group above it lists.
			if vanished(err) || errors.Is(err, unix.EOPNOTSUPP) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("cannot list cgroup %s: %w", path, err)
			}
			for _, field := range strings.Fields(b) {
				// A process of an outer PID namespace reads as 0.
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// subtree lists the group at dir and all below it, parents first.
func subtree(dir string) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if vanished(err) {
			return nil
		}
		if err == nil && d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	return all, err
}

// vanished tells that a group was removed before, or while, it was read.
func vanished(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// Kill sends SIGKILL to every process in the group at path and below it, and does not wait for their end. It spares
// this process, of which version 1 lets a single thread be there.
func (h *Hierarchy) Kill(path string) error {
	fds, err := h.kill(path)
	for _, f := range fds {
		f.Close()
	}
	return err
}

// End is Kill that returns once nothing runs there any more, or ctx ends: what a killed process holds, such as a port,
// is free only when it has ended.
func (h *Hierarchy) End(ctx context.Context, path string) error {
	h.thaw(path)
	for {
		ends, err := h.kill(path)
		for _, f := range ends {
			err = errors.Join(err, awaitEnd(ctx, f), f.Close())
		}
		if err != nil || len(ends) == 0 {
			return err
		}
	}
}

// thaw lets a group go that the version 1 freezer holds: its processes do not die before.
func (h *Hierarchy) thaw(path string) {
	if dir := h.dir("freezer", path); dir != "" && h.mode != V2 {
		_ = write(dir, "freezer.state", "THAWED")
	}
}

// kill is Kill that returns what to wait on: a descriptor for each process, which the caller closes.
func (h *Hierarchy) kill(path string) (ends []*os.File, err error) {
	pids, err := h.Procs(path)
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	open := map[int]int{}
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if errors.Is(err, unix.ESRCH) {
			continue
		} else if err != nil {
			return ends, fmt.Errorf("cannot kill cgroup %s: process %d: %w", path, pid, err)
		}
		open[pid] = fd
		ends = append(ends, os.NewFile(uintptr(fd), "pidfd"))
	}
	// An ID may have gone to another process before it was opened: only what is still in the group is killed.
	if pids, err = h.Procs(path); err != nil {
		return ends, err
	}
	for _, pid := range pids {
		fd, ok := open[pid]
		if !ok {
			continue // younger than the first look; Remove comes round again
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return ends, fmt.Errorf("cannot kill cgroup %s: process %d: %w", path, pid, err)
		}
	}
	return ends, nil
}

// RemoveUnused is Remove for a group that has no other process than this one and no group below; others it leaves.
func (h *Hierarchy) RemoveUnused(ctx context.Context, path string) error {
	pids, err := h.Procs(path)
	if err != nil || slices.ContainsFunc(pids, func(pid int) bool { return pid != os.Getpid() }) {
		return err
	}
	for _, dir := range h.dirs(path) {
		groups, err := subtree(dir)
		if err != nil || len(groups) > 1 {
			return err
		}
	}
	return h.Remove(ctx, path)
}

// Remove kills what runs in the group at path, waits for its end and removes the group and all below it.
// A group that is not there is success. It gives up when ctx ends.
func (h *Hierarchy) Remove(ctx context.Context, path string) error {
	if filepath.Clean("/"+path) == "/" {
		return errors.New("cannot remove cgroup: the path is empty")
	}
	h.thaw(path)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ends, err := h.kill(path)
		for _, f := range ends {
			err = errors.Join(err, awaitEnd(ctx, f), f.Close())
		}
		if err == nil {
			err = h.rmdir(path)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EBUSY) || ctx.Err() != nil:
			return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
		case len(ends) > 0:
			continue
		}
		// A process or thread that has reported its end, and a child group that was removed, are still counted for an
		// instant, for which version 1 has no event.
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
		case <-time.After(pause):
		}
	}
}

// awaitEnd waits until the process of a pidfd has ended, or ctx has.
func awaitEnd(ctx context.Context, pidfd *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Now()) })
	defer stop()
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// rmdir removes the group's folders, deepest first.
func (h *Hierarchy) rmdir(path string) error {
	for _, dir := range h.dirs(path) {
		groups, err := subtree(dir)
		if err != nil {
			return err
		}
		for _, group := range slices.Backward(groups) {
			if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}
