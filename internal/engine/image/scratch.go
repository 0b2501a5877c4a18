package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"
)

// scratch is a folder for one operation's working files, on the storage's own disk: layers can be larger than memory, and
// /tmp may be memory. It is locked for as long as its owner lives.
type scratch struct {
	path string
	lock *os.File
}

const scratchPrefix = "peapod-"

func (s *Store) scratchRoot() string { return filepath.Join(s.store.GraphRoot(), "tmp") }

func (s *Store) newScratch() (*scratch, error) {
	root, err := s.lockScratchRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	path, err := os.MkdirTemp(s.scratchRoot(), scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("cannot make a working folder: %w", err)
	}
	lock, err := lockFolder(path, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, fmt.Errorf("cannot lock working folder: %w", err)
	}
	return &scratch{path, lock}, nil
}

// lockScratchRoot keeps a sweep from taking a folder for stale that is made but not locked yet.
func (s *Store) lockScratchRoot() (*os.File, error) {
	if err := os.MkdirAll(s.scratchRoot(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a working folder: %w", err)
	}
	root, err := lockFolder(s.scratchRoot(), unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the working folders: %w", err)
	}
	return root, nil
}

// remove deletes the folder before it gives up the lock, so that no sweep sees it in between.
func (w *scratch) remove() {
	_ = os.RemoveAll(w.path) // what stays, the next sweep finds
	_ = w.lock.Close()
}

// system is the setting for one operation of the image library.
func (w *scratch) system() *types.SystemContext {
	return &types.SystemContext{
		BigFilesTemporaryDir:    w.path,
		BlobInfoCacheDir:        w.path, // nothing is remembered of where layers were seen
		DockerRegistryUserAgent: "peapod",
	}
}

// sweepScratch removes the working folders whose owner is dead.
func (s *Store) sweepScratch() error {
	root, err := s.lockScratchRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := root.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("cannot look for stale working files: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), scratchPrefix) {
			continue
		}
		path := filepath.Join(s.scratchRoot(), entry.Name())
		lock, err := lockFolder(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in use, or gone
		}
		(&scratch{path, lock}).remove()
		s.log.Info("removed what an interrupted pull or load left", "folder", path)
	}
	return nil
}

func lockFolder(path string, how int) (*os.File, error) {
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), how); err != nil {
		_ = folder.Close()
		return nil, err
	}
	return folder, nil
}

// syncStorage makes all that was unpacked durable. The storage library syncs its lists but not the layers' files, so that
// without this a power cut soon after a pull would leave an image of empty files that looks whole.
func (s *Store) syncStorage() error {
	root, err := os.Open(s.store.GraphRoot())
	if err != nil {
		return fmt.Errorf("cannot sync container storage: %w", err)
	}
	defer root.Close()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return fmt.Errorf("cannot sync container storage: %w", err)
	}
	return nil
}

// contextReader ends a copy when its context ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
