package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openRunDir makes the run folder what its name says: on memory, gone with the machine. Where the folder is
// on a disk (a machine whose /run is none of its own file systems) a tmpfs is mounted on it, unless something
// is in it already: an earlier daemon's files stay where they are. Idempotent. Until something is kept in it, undo
// takes it back.
func openRunDir(dir string) (undo func() error, err error) {
	undo = func() error { return nil }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return undo, fmt.Errorf("cannot make the run folder: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return undo, fmt.Errorf("cannot use the run folder %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return undo, fmt.Errorf("cannot use the run folder: %w", err)
	}
	if fs.Type == unix.TMPFS_MAGIC || len(entries) > 0 || os.Geteuid() != 0 {
		return undo, nil
	}
	if err := unix.Mount("peapod", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return undo, fmt.Errorf("cannot mount a tmpfs on the run folder %s: %w", dir, err)
	}
	return func() error { return removeRunDir(dir) }, nil
}

// removeRunDir takes down what openRunDir made, and the folder.
func removeRunDir(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount the run folder %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}
