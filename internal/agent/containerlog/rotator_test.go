package containerlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// engine has one running container, whose log is a file that reopening makes anew.
type engine struct {
	path string

	mu       sync.Mutex
	file     *os.File
	refuses  error
	reopened int
}

func newEngine(t *testing.T) *engine {
	e := &engine{path: filepath.Join(t.TempDir(), "0.log")}
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.file.Close() })
	return e
}

func (e *engine) open() (err error) {
	e.file, err = os.OpenFile(e.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	return err
}

func (e *engine) print(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprint(e.file, s)
}

func (e *engine) status(state runtimeapi.ContainerState) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{Id: "c", LogPath: e.path, State: state}
}

func (e *engine) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c"}}}, nil
}

func (e *engine) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: e.status(runtimeapi.ContainerState_CONTAINER_RUNNING)}, nil
}

func (e *engine) ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuses != nil {
		return nil, e.refuses
	}
	e.reopened++
	e.file.Close()
	return &runtimeapi.ReopenContainerLogResponse{}, e.open()
}

func (e *engine) reopens() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reopened
}

// start runs a Rotator for the engine's log until the test ends.
func start(t *testing.T, e *engine, c Config) *Rotator {
	t.Helper()
	c.Engine, c.Log = e, slog.New(slog.NewTextHandler(io.Discard, nil))
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

// clock goes on by a second each time it is looked at: names of rotated logs tell no less.
func clock() func() time.Time {
	now := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// files are the names beside the log, each with its content, uncompressed.
func files(t *testing.T, log string) (names []string, content string) {
	t.Helper()
	all, err := filepath.Glob(log + "*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	all = append(all[1:], all[0]) // the log itself is the newest
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".gz") {
			zip, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(zip); err != nil {
				t.Fatal(err)
			}
		}
		names, content = append(names, strings.TrimPrefix(f, log)), content+string(b)
	}
	return names, content
}

func TestRotation(t *testing.T) {
	e := newEngine(t)
	start(t, e, Config{MaxSize: 10, MaxFiles: 3, interval: 10 * time.Millisecond, now: clock()})
	e.print("short\n")
	for i := range 4 {
		e.print(fmt.Sprintf("this is line %d\n", i))
		eventually(t, "no rotation", func() bool { return e.reopens() == i+1 })
	}
	want := "this is line 2\nthis is line 3\nlast\n"
	e.print("last\n")
	names, content := files(t, e.path)
	if content != want {
		t.Errorf("%q, want %q", content, want)
	}
	if len(names) != 3 || !strings.HasSuffix(names[0], ".gz") || strings.HasSuffix(names[1], ".gz") || names[2] != "" {
		t.Errorf("%q", names)
	}
	if _, err := time.Parse(timestamp, strings.TrimPrefix(names[1], ".")); err != nil {
		t.Error(err)
	}
	if err := Remove(e.path); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(e.path)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestUpdate has the containers of two logs come and go.
func TestUpdate(t *testing.T) {
	e := newEngine(t)
	r := start(t, e, Config{MaxSize: 10, interval: time.Millisecond})
	eventually(t, "not adopted", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.logs) == 1 })
	r.Update(e.status(runtimeapi.ContainerState_CONTAINER_EXITED))
	if n := len(r.watcher.WatchList()); n != 0 || len(r.logs) != 0 {
		t.Errorf("%d watches, %d logs", n, len(r.logs))
	}
	e.print("a line that is long enough\n")
	r.Update(e.status(runtimeapi.ContainerState_CONTAINER_EXITED))
	if err := r.rotateIfLarge(t.Context(), "c", e.path+".other"); err != nil { // makes what is missing
		t.Error(err)
	}
	before := e.reopens()
	r.Update(e.status(runtimeapi.ContainerState_CONTAINER_RUNNING)) // too large from the beginning
	eventually(t, "no rotation", func() bool { return e.reopens() == before+1 })
}

// TestInterruptedRotation begins with what a crash has left at each step.
func TestInterruptedRotation(t *testing.T) {
	e := newEngine(t)
	e.print("before\n")
	write := func(suffix, content string) {
		if err := os.WriteFile(e.path+suffix, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	// Renamed and not reopened.
	if err := os.Rename(e.path, e.path+".20240101-000002"); err != nil {
		t.Fatal(err)
	}
	e.print("after\n")
	// Half compressed; compressed and not removed.
	write(".20240101-000001.tmp", "half")
	write(".20240101-000000", "older\n")
	if err := compress(e.path + ".20240101-000000"); err != nil {
		t.Fatal(err)
	}
	write(".20240101-000000", "older\n")
	start(t, e, Config{MaxSize: 10, interval: time.Millisecond, now: clock()})
	eventually(t, "not reopened", func() bool { return e.reopens() == 1 })
	e.print("and more lines\n")
	eventually(t, "no rotation", func() bool { return e.reopens() == 2 })
	names, content := files(t, e.path)
	if content != "older\nbefore\nafter\nand more lines\n" {
		t.Errorf("%q", content)
	}
	if len(names) != 4 || names[0] != ".20240101-000000.gz" || names[1] != ".20240101-000002.gz" {
		t.Errorf("%q", names)
	}
}

func TestRefusedRotation(t *testing.T) {
	e := newEngine(t)
	e.refuses = errors.New("the container has ended")
	r, err := New(Config{Engine: e, MaxSize: 10, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	e.print("a line that is long enough\n")
	if err := r.rotateIfLarge(t.Context(), "c", e.path); !errors.Is(err, e.refuses) {
		t.Error(err)
	}
	e.print("last\n")
	if names, content := files(t, e.path); len(names) != 1 || content != "a line that is long enough\nlast\n" {
		t.Errorf("%q, %q", names, content)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{MaxFiles: 1}); err == nil {
		t.Error("one file was taken")
	}
}
