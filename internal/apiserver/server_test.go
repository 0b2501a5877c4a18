package apiserver_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"peapod.dev/peapod/internal/apiserver"
	"peapod.dev/peapod/internal/datastore"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// start runs a server on a data folder until the test ends.
func start(t testing.TB, dir string) *apiserver.Server {
	t.Helper()
	s, stop := run(t, dir)
	t.Cleanup(stop)
	return s
}

// run returns when the server is ready.
func run(t testing.TB, dir string) (*apiserver.Server, func()) {
	t.Helper()
	begin := time.Now()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := datastore.Start(t.Context(), datastore.Config{Dir: dir, RunDir: filepath.Join(dir, "run"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	etcd := time.Since(begin)
	s, err := apiserver.New(t.Context(), apiserver.Config{
		Listen: "127.0.0.1:0", PKIDir: filepath.Join(dir, "pki"), Transport: store.Transport(), Log: log,
		Version: "v1.37.2+peapod.test",
	})
	if err != nil {
		store.Close()
		t.Fatal(err)
	}
	built := time.Since(begin)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		cancel()
		begin := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		served := time.Since(begin)
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("server stopped after %v, etcd after %v", served, time.Since(begin))
	}
	select {
	case <-s.Ready():
		t.Logf("etcd after %v, built after %v, ready after %v", etcd, built, time.Since(begin))
	case err := <-done:
		done <- err
		stop()
		t.FailNow()
	case <-time.After(20 * time.Second):
		stop()
		t.Fatal("not ready")
	}
	return s, stop
}

func TestBoot(t *testing.T) {
	dir := t.TempDir()
	t.Run("first", func(t *testing.T) { start(t, dir) })
	t.Run("second", func(t *testing.T) { start(t, dir) })
}
