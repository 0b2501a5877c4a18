// Package containerlog keeps the log files of containers within bounds, as pkg/kubelet/logs does: a log that has reached
// its size is renamed N.log.TIME and the engine is asked to open a new one; older ones are compressed to N.log.TIME.gz,
// and the oldest removed.
//
// The kubelet looks at every log every ten seconds. Nothing tells that a file has reached a size, but inotify tells that
// it has grown: here each log has a watch, which is taken away by the first event and set anew when the log was looked at,
// a second later. So a silent container costs nothing, and one that prints without end a look a second.
//
// Invariants: whatever is interrupted, by a crash too, loses no line and is made good by a later look; the engine is met
// through CRI only.
package containerlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet's defaults.
const (
	DefaultMaxSize  = 10 << 20
	DefaultMaxFiles = 5
)

// interval is the least time between two looks at the same log. It is no less than what the names of rotated logs resolve.
const interval = time.Second

// Engine is the part of CRI that rotation needs.
type Engine interface {
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
	ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error)
}

// Config is what a Rotator needs.
type Config struct {
	Engine   Engine
	MaxSize  int64 // bytes from which a log is rotated; 0 means DefaultMaxSize, less that none is
	MaxFiles int   // logs of one container, the current one included, 2 or more; 0 means DefaultMaxFiles
	Log      *slog.Logger

	interval time.Duration // these two in tests
	now      func() time.Time
}

// Rotator rotates the logs of running containers. Its methods may be called concurrently.
type Rotator struct {
	cfg     Config
	log     *slog.Logger
	watcher *fsnotify.Watcher
	due     chan string // paths to be looked at
	done    chan struct{}

	mu   sync.Mutex
	logs map[string]*followed // by path
}

// followed is the log of a running container: either watched, or with a timer towards the next look.
type followed struct {
	container string
	timer     *time.Timer // nil while the log is watched or looked at
}

// New makes a Rotator; it does nothing before Run.
func New(cfg Config) (*Rotator, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.MaxSize == 0 {
		cfg.MaxSize = DefaultMaxSize
	}
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = DefaultMaxFiles
	}
	if cfg.interval == 0 {
		cfg.interval = interval
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.MaxFiles < 2 {
		return nil, fmt.Errorf("cannot rotate container logs: at most %d files, and 2 is the least", cfg.MaxFiles)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch container logs: %w", err)
	}
	return &Rotator{
		cfg: cfg, log: cfg.Log, watcher: watcher, due: make(chan string), done: make(chan struct{}), logs: map[string]*followed{},
	}, nil
}

// Update takes the newest status of a container, as the engine's events have it, and begins or ends the care for its log.
// It does not block.
func (r *Rotator) Update(s *runtimeapi.ContainerStatus) {
	path := s.GetLogPath()
	if path == "" || r.cfg.MaxSize < 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l, known := r.logs[path]
	switch running := s.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING; {
	case running && !known:
		r.logs[path] = &followed{container: s.GetId()}
		r.watch(path)
	case !running && known && l.container == s.GetId():
		delete(r.logs, path)
		_ = r.watcher.Remove(path) // it is not there while a timer runs
		if l.timer != nil {
			l.timer.Stop()
		}
	}
}

// watch waits for the log's next change. Where it is too large already, or cannot be watched, it is looked at later in any
// case. The caller holds mu.
func (r *Rotator) watch(path string) {
	err := r.watcher.Add(path)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(path); err == nil && info.Size() < r.cfg.MaxSize {
			return
		}
		_ = r.watcher.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the engine makes one that is missing
		r.log.Warn("Cannot watch a container's log, and looks at it every now and then", "path", path, "error", err)
	}
	r.lookIn(r.cfg.interval, path)
}

// lookIn sets the timer of the log. The caller holds mu.
func (r *Rotator) lookIn(wait time.Duration, path string) {
	if l := r.logs[path]; l != nil && l.timer == nil {
		l.timer = time.AfterFunc(wait, func() {
			select {
			case r.due <- path:
			case <-r.done:
			}
		})
	}
}

// Run rotates logs until ctx ends, those of containers that run already too.
func (r *Rotator) Run(ctx context.Context) error {
	defer r.stop()
	if err := r.adopt(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-r.watcher.Events:
			_ = r.watcher.Remove(e.Name) // it is gone with a file that was
			r.mu.Lock()
			r.lookIn(r.cfg.interval, e.Name)
			r.mu.Unlock()
		case err := <-r.watcher.Errors:
			r.log.Warn("Cannot watch container logs", "error", err)
			r.mu.Lock()
			for path := range r.logs { // an event may be lost
				r.lookIn(r.cfg.interval, path)
			}
			r.mu.Unlock()
		case path := <-r.due:
			r.look(ctx, path)
		}
	}
}

// adopt takes care of the containers that run already.
func (r *Rotator) adopt(ctx context.Context) error {
	running, err := r.cfg.Engine.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return fmt.Errorf("cannot find the logs of running containers: %w", err)
	}
	for _, c := range running.GetContainers() {
		if s, err := r.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()}); err == nil {
			r.Update(s.GetStatus()) // else it has just gone
		}
	}
	return nil
}

func (r *Rotator) stop() {
	close(r.done)
	_ = r.watcher.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.logs {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
}

// look rotates the log if it has reached its size, and waits for its next change.
func (r *Rotator) look(ctx context.Context, path string) {
	r.mu.Lock()
	l := r.logs[path]
	r.mu.Unlock()
	if l == nil {
		return // its container has ended
	}
	err := r.rotateIfLarge(ctx, l.container, path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs[path] != l {
		return // its container has ended meanwhile, which may have been an error too
	}
	l.timer = nil
	if err != nil && ctx.Err() == nil {
		r.log.Warn("Cannot rotate a container's log", "container", l.container, "path", path, "error", err)
		r.lookIn(10*r.cfg.interval, path)
		return
	}
	r.watch(path)
}
