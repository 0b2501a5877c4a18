package containerlog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Of the names of rotated logs, as the kubelet makes them: tools that collect logs know them.
const (
	timestamp  = "20060102-150405"
	compressed = ".gz"
	unfinished = ".tmp"
)

// Remove removes the log and what it was rotated to. Idempotent.
func Remove(path string) error {
	logs, err := rotated(path)
	if err != nil {
		return err
	}
	for _, l := range append(logs, path) {
		if err := os.Remove(l); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a container's log: %w", err)
		}
	}
	return nil
}

// rotated lists what the log was rotated to, oldest first, and what is left of interrupted rotations.
func rotated(path string) ([]string, error) {
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot find rotated logs: %w", err)
	}
	var logs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name+".") {
			logs = append(logs, dir+e.Name())
		}
	}
	return logs, nil
}

// rotateIfLarge rotates the log of a running container if it has reached its size. One that is missing, as after a
// rotation that was interrupted, is made.
func (r *Rotator) rotateIfLarge(ctx context.Context, container, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r.reopen(ctx, container)
	}
	if err != nil || info.Size() < r.cfg.MaxSize {
		return err
	}
	if err := r.makeRoom(path); err != nil {
		return err
	}
	to := path + "." + r.cfg.now().Format(timestamp)
	for _, name := range []string{to, to + compressed} {
		if _, err := os.Lstat(name); err == nil {
			return nil // the clock was set back: later
		}
	}
	if err := os.Rename(path, to); err != nil {
		return err
	}
	if err := r.reopen(ctx, container); err != nil {
		// The container prints to the renamed file still. Link, unlike rename, never replaces a new log.
		if os.Link(to, path) == nil {
			_ = os.Remove(to)
		}
		return err
	}
	return nil
}

func (r *Rotator) reopen(ctx context.Context, container string) error {
	_, err := r.cfg.Engine.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: container})
	return err
}

// makeRoom compresses the rotated logs and removes the oldest, so that with the one to come and the current one there are
// at most MaxFiles.
func (r *Rotator) makeRoom(path string) error {
	all, err := rotated(path)
	if err != nil {
		return err
	}
	var logs []string
	for _, l := range all {
		if strings.HasSuffix(l, unfinished) || slices.Contains(all, l+compressed) {
			if err := os.Remove(l); err != nil {
				return err
			}
			continue
		}
		logs = append(logs, l)
	}
	for excess := len(logs) - (r.cfg.MaxFiles - 2); excess > 0; excess-- {
		if err := os.Remove(logs[0]); err != nil {
			return err
		}
		logs = logs[1:]
	}
	for _, l := range logs {
		if !strings.HasSuffix(l, compressed) {
			if err := compress(l); err != nil {
				return fmt.Errorf("cannot compress %s: %w", l, err)
			}
		}
	}
	return nil
}

// compress replaces the file by its compressed form; whatever interrupts it, one of them is whole.
func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode())
	if err != nil {
		return err
	}
	defer os.Remove(path + unfinished)
	defer out.Close()
	zip := gzip.NewWriter(out)
	if _, err := io.Copy(zip, in); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+unfinished, path+compressed); err != nil {
		return err
	}
	return os.Remove(path)
}
