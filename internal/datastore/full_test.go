package datastore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A disk that is full ends the store with the reason, and can be closed.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("full", dir, "tmpfs", 0, "size=160m"); err != nil { // the write-ahead log takes 128 MiB at once
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := start(t, Config{Dir: dir, RunDir: t.TempDir()})
	c := client(t, s)
	defer c.Close()
	if _, err := c.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for t.Context().Err() == nil { // until the store is too large for the disk
			if _, err := c.Put(t.Context(), "k2", strings.Repeat("x", 1<<20)); err != nil {
				return
			}
		}
	}()
	select {
	case err := <-s.Failed():
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("the store failed: %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("a store without room has not failed")
	}
	c.Close()
	<-wrote
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// fill writes path until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<16))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
