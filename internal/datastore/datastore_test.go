package datastore

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func start(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(t *testing.T, s *Store) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Transport().ServerList, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStoreKeepsDataAcrossRestarts(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), RunDir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	s := start(t, cfg)
	c := client(t, s)
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	cfg.RunDir = t.TempDir() // another run folder, as after a reboot
	s = start(t, cfg)
	c = client(t, s)
	defer c.Close()
	got, err := c.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("got %v, want v", got.Kvs)
	}
}

func TestSocketIsPrivateAndNothingListensOnTCP(t *testing.T) {
	s := start(t, Config{Dir: t.TempDir(), RunDir: t.TempDir()})
	for path, want := range map[string]os.FileMode{s.socket: 0o600, filepath.Dir(s.socket): 0o700} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, fi.Mode().Perm(), want)
		}
	}
	if len(s.etcd.Peers) != 0 {
		t.Errorf("peer listeners: %v", s.etcd.Peers)
	}
	for _, l := range s.etcd.Clients {
		if _, ok := l.Addr().(*net.UnixAddr); !ok {
			t.Errorf("listens on %v", l.Addr())
		}
	}
}

func TestSecondStoreOnTheSameFolder(t *testing.T) {
	dir := t.TempDir()
	start(t, Config{Dir: dir, RunDir: t.TempDir()})
	_, err := Start(t.Context(), Config{Dir: dir, RunDir: t.TempDir()})
	var inUse *InUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("got %v, want *InUseError", err)
	}
	if inUse.PID != strconv.Itoa(os.Getpid()) {
		t.Errorf("pid %q, want %d", inUse.PID, os.Getpid())
	}
}

func TestTwoStoresOnOneRunFolder(t *testing.T) {
	run := t.TempDir()
	s := start(t, Config{Dir: t.TempDir(), RunDir: run})
	data := t.TempDir()
	_, err := Start(t.Context(), Config{Dir: data, RunDir: run})
	var inUse *InUseError
	if !errors.As(err, &inUse) || !strings.HasPrefix(err.Error(), "cannot use run folder "+run+": another peapod (pid ") {
		t.Fatalf("got %v, want *InUseError of the run folder", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: data, RunDir: run}) // neither folder is held any more
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: filepath.Join(file, "data"), RunDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "cannot use data folder "+file) {
		t.Errorf("got %v", err)
	}
}

func TestLongRunFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := start(t, Config{Dir: t.TempDir(), RunDir: filepath.Join(t.TempDir(), strings.Repeat("x", maxSocketPath))})
	if len(s.socket) > maxSocketPath || !strings.HasPrefix(s.socket, os.TempDir()) {
		t.Errorf("socket %s", s.socket)
	}
	t.Setenv("TMPDIR", "/"+strings.Repeat("y", maxSocketPath))
	if _, err := socketPath(strings.Repeat("x", maxSocketPath), ""); err == nil || !strings.Contains(err.Error(), "choose a shorter run folder") {
		t.Errorf("got %v", err)
	}
}

func TestGivenServers(t *testing.T) {
	s := start(t, Config{Dir: t.TempDir(), RunDir: t.TempDir(), Servers: []string{"https://192.0.2.1:2379"}, CAFile: "/ca"})
	if got := s.Transport(); got.ServerList[0] != "https://192.0.2.1:2379" || got.TrustedCAFile != "/ca" {
		t.Errorf("got %+v", got)
	}
	if s.Failed() != nil {
		t.Error("given servers cannot fail")
	}
}
