// Package container runs one container of a sandbox through its life: created, running, exited.
//
// A container moves forward only. Its record is durable before its first process runs, so that after a power cut it is
// known to have run; its status is not made durable: what it says of a running process dies with the power, and a
// container found without its processes is reported as exited.
package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/record"
	"peapod.dev/peapod/internal/fault"
)

// Reasons and exit codes, as upstream spells them.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
	ReasonUnknown    = "Unknown"

	startErrorCode = 128
	unknownCode    = 255
)

// ErrNotRunning tells that an operation needs a running container.
var ErrNotRunning = errors.New("container is not running")

// ErrNotCreated tells that a container was started before.
var ErrNotCreated = errors.New("container is not in created state")

// Environment is what containers live in.
type Environment struct {
	Root, Run string // folders, one below for each container
	Conmon    *conmon.Conmon
	Cgroups   *cgroup.Hierarchy
	Log       *slog.Logger
	// Changed is called in the order of the changes, and before Start and a successful Stop return.
	Changed func(*Container, runtimeapi.ContainerEventType)

	following sync.WaitGroup
}

// Wait returns when nothing is done for containers any more, all of which were closed or removed.
func (env *Environment) Wait() { env.following.Wait() }

// Record is what does not change in a container's life.
type Record struct {
	ID, SandboxID string
	Config        *runtimeapi.ContainerConfig // without command and environment, which may hold secrets
	ImageID       string
	ImageRef      string // by digest where the image has one, else its ID
	ImageMounts   []string
	User          *runtimeapi.LinuxContainerUser
	Handler       string
	LogPath       string
	Cgroup        string
	SharesPID     bool // ending the first process does not end the others
	StopSignal    string
	CreatedAt     int64 // Unix nanoseconds
}

// Status is what changes.
type Status struct {
	State                 runtimeapi.ContainerState
	StartedAt, FinishedAt int64 // Unix nanoseconds; 0: not yet
	ExitCode              int32
	Reason, Message       string
	Resources             *runtimeapi.LinuxContainerResources // of the last update; nil: as created
	PID                   int
}

// Container is one container. Safe for concurrent use.
type Container struct {
	Record
	env     *Environment
	runtime *ociruntime.Runtime
	durable *record.Syncing

	op     sync.Mutex // one Start or Remove at a time
	mu     sync.Mutex // guards what is below
	status Status
	init   *os.File        // pidfd of the first process
	follow *conmon.Monitor // nil unless running
	leave  func()          // ends the wait for the end of what a lost monitor left; nil unless followed
	asked  bool            // the stop signal was sent

	process atomic.Pointer[specs.Process] // what config.json says, once somebody has asked

	exited  chan struct{} // closed when the state is exited
	cleaned chan struct{} // closed when the runtime has forgotten the container
}

func newContainer(env *Environment, r Record, runtime *ociruntime.Runtime) *Container {
	return &Container{
		Record: r, env: env, runtime: runtime, exited: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

// Create records a new container. Its bundle (Bundle) must hold config.json before it is started.
func Create(env *Environment, r Record, runtime *ociruntime.Runtime) (*Container, error) {
	c := newContainer(env, r, runtime)
	err := os.MkdirAll(c.dir(), 0o700)
	if err == nil {
		err = record.Write(c.file("container.json"), &c.Record)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot record container: %w", err)
	}
	fault.Point("container recorded")
	c.durable = record.StartSync(c.file("container.json"))
	return c, nil
}

// Bundle is the folder of the container id's OCI bundle and of its monitor.
func (env *Environment) Bundle(id string) string { return filepath.Join(env.Run, id) }

func (c *Container) dir() string             { return filepath.Join(c.env.Root, c.ID) }
func (c *Container) file(name string) string { return filepath.Join(c.dir(), name) }

// Bundle is the folder of the OCI bundle.
func (c *Container) Bundle() string { return c.env.Bundle(c.ID) }

// Runtime is the OCI runtime that the container's handler stands for.
func (c *Container) Runtime() *ociruntime.Runtime { return c.runtime }

// Process is what the container runs, as its bundle's config.json says. Nobody changes it: the file is read once.
func (c *Container) Process() (*specs.Process, error) {
	if p := c.process.Load(); p != nil {
		return p, nil
	}
	p, err := ociruntime.ProcessOf(c.Bundle())
	if err == nil {
		c.process.Store(p)
	}
	return p, err
}

// Status returns a copy.
func (c *Container) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Exited is closed once the container has exited.
func (c *Container) Exited() <-chan struct{} { return c.exited }

// ReopenLog makes the log continue in a new file at its path, which exists when it returns.
func (c *Container) ReopenLog(ctx context.Context) error {
	if c.LogPath == "" {
		return nil
	}
	if err := conmon.ReopenLog(ctx, c.Bundle(), c.LogPath, c.exited); err != nil {
		return fmt.Errorf("cannot reopen the log of container %s: %w", c.ID, err)
	}
	return nil
}

func (c *Container) set(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
	if err := record.Write(c.file("status.json"), &c.status); err != nil {
		c.env.Log.Error("cannot record the status of a container", "container", c.ID, "error", err)
	}
}

// Start creates the container with the OCI runtime and starts it; durable is waited for before the first process runs.
// When that fails, the container has exited with reason StartError, and the error is what the runtime said.
// errors.Is(err, ErrNotCreated) when it was started before.
func (c *Container) Start(ctx context.Context, durable func() error) error {
	c.op.Lock()
	defer c.op.Unlock()
	if c.Status().State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return ErrNotCreated
	}
	m, err := c.start(context.WithoutCancel(ctx), durable)
	if err != nil {
		c.failed(context.WithoutCancel(ctx), err)
		return err
	}
	fault.Point("runtime started container")
	c.mu.Lock()
	c.follow = m
	c.mu.Unlock()
	c.set(func(s *Status) {
		s.State, s.StartedAt, s.PID = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano(), m.ContainerPID
	})
	fault.Point("start recorded")
	c.env.Changed(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	c.env.following.Go(func() { c.followMonitor(m) })
	return nil
}

func (c *Container) start(ctx context.Context, durable func() error) (*conmon.Monitor, error) {
	m, err := c.env.Conmon.Create(ctx, conmon.Config{
		ID: c.ID, Bundle: c.Bundle(), Runtime: c.runtime, LogPath: c.LogPath,
		Terminal: c.Config.GetTty(), Stdin: c.Config.GetStdin(), StdinOnce: c.Config.GetStdinOnce(),
	})
	if err != nil {
		return nil, err
	}
	fault.Point("runtime created container")
	if err = c.openInit(m.ContainerPID); err == nil {
		if err = errors.Join(c.durable.Wait(), durable()); err == nil {
			err = c.runtime.Start(ctx, c.ID)
		}
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (c *Container) openInit(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("the container's first process is gone: %w", err)
	}
	c.mu.Lock()
	c.init = os.NewFile(uintptr(fd), "pidfd")
	c.mu.Unlock()
	return nil
}

// failed ends a container that could not be started, as containerd reports it: never started, exit code 128.
func (c *Container) failed(ctx context.Context, cause error) {
	c.abandon(ctx)
	c.set(func(s *Status) {
		s.State, s.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano()
		s.ExitCode, s.Reason, s.Message = startErrorCode, ReasonStartError, cause.Error()
	})
	close(c.exited)
	close(c.cleaned)
}

// abandon takes back what a start had made.
func (c *Container) abandon(ctx context.Context) {
	conmon.Kill(c.Bundle())
	if err := c.runtime.Delete(ctx, c.ID); err != nil {
		c.env.Log.Error("cannot delete a container that failed to start", "container", c.ID, "error", err)
	}
	_ = os.Remove(filepath.Join(c.Bundle(), "exit"))
	_ = os.Remove(filepath.Join(c.Bundle(), "conmon.pid"))
}

// followMonitor reports the exit of the running container, then clears up.
func (c *Container) followMonitor(m *conmon.Monitor) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	c.leave = cancel
	c.mu.Unlock()
	if m.Wait() != nil {
		return // closed: the engine leaves the container to its next process
	}
	m.Close()
	c.finish(ctx)
}

// finish records how the container ended. Its monitor has ended. When ctx ends before the container's last process has,
// the container is left as it was, to the engine's next process.
func (c *Container) finish(ctx context.Context) {
	fault.Point("container ended")
	log := c.env.Log.With("container", c.ID)
	exit, err := conmon.ReadExit(c.Bundle())
	lost := err != nil
	if lost {
		log.Warn("a container has lost its monitor, so it is killed and its exit code is not known", "error", err)
	}
	// Without its monitor a container is lost; with its first process gone, what is left of it in a shared PID
	// namespace goes too. It has not ended before all of it has: the next attempt must not run beside it.
	if lost || c.SharesPID {
		if err := c.env.Cgroups.End(ctx, c.Cgroup); ctx.Err() != nil {
			return
		} else if err != nil {
			log.Error("cannot kill what a container left", "error", err)
		}
	}
	oom, err := c.env.Cgroups.OOMKilled(c.Cgroup)
	if err != nil {
		log.Warn("cannot tell whether the container ran out of memory", "error", err)
	}
	c.set(func(s *Status) {
		s.State, s.PID = runtimeapi.ContainerState_CONTAINER_EXITED, 0
		switch {
		case lost:
			s.ExitCode, s.Reason, s.FinishedAt = unknownCode, ReasonUnknown, time.Now().UnixNano()
			return
		case exit.Code == 0:
			s.Reason = ReasonCompleted
		case oom:
			s.Reason = ReasonOOMKilled
		default:
			s.Reason = ReasonError
		}
		s.ExitCode, s.FinishedAt = exit.Code, max(exit.At.UnixNano(), s.StartedAt)
	})
	fault.Point("exit recorded")
	c.env.Changed(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	close(c.exited)
	if err := c.runtime.Delete(context.Background(), c.ID); err != nil {
		log.Error("cannot delete an exited container", "error", err)
	}
	fault.Point("runtime deleted container")
	c.closeInit()
	close(c.cleaned)
}

func (c *Container) closeInit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init != nil {
		c.init.Close()
		c.init = nil
	}
}
