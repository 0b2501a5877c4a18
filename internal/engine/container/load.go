package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/record"
)

// ErrIncomplete tells that a folder holds no whole container: its making was interrupted.
var ErrIncomplete = errors.New("incomplete container")

// List returns the IDs of all containers, whole or not.
func List(env *Environment) ([]string, error) {
	ids := map[string]bool{}
	for _, dir := range []string{env.Root, env.Run} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list containers: %w", err)
		}
		for _, e := range entries {
			ids[e.Name()] = true
		}
	}
	var all []string
	for id := range ids {
		all = append(all, id)
	}
	return all, nil
}

// Load adopts the container id: one that runs is followed again, of one that ended meanwhile the exit is recorded.
// With ErrIncomplete the container is returned too, fit to be removed.
func Load(ctx context.Context, env *Environment, id string, runtime func(handler string) *ociruntime.Runtime) (*Container, error) {
	c := newContainer(env, Record{ID: id}, nil)
	var r Record
	err := record.Read(filepath.Join(env.Root, id, "container.json"), &r)
	c.runtime = runtime(r.Handler)
	if err == nil && r.ID != id {
		err = fmt.Errorf("the record is of container %q", r.ID)
	}
	if err != nil {
		c.abandon(ctx)
		return c, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	c.Record = r
	if err := record.Read(c.file("status.json"), &c.status); err != nil && !errors.Is(err, fs.ErrNotExist) {
		env.Log.Warn("cannot read the status of a container, so it is asked of the runtime", "container", id, "error", err)
		c.status = Status{}
		c.status.State = runtimeapi.ContainerState_CONTAINER_UNKNOWN // settled below
	}
	if c.status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		close(c.exited)
		close(c.cleaned)
		if _, err := os.Stat(c.Bundle()); err == nil {
			return c, c.runtime.Delete(ctx, id) // the last process may have ended before that
		}
		return c, nil
	}
	if _, err := os.Stat(filepath.Join(c.Bundle(), "config.json")); err != nil {
		return c, c.endedWithMachine(ctx)
	}
	m, err := conmon.Find(id, c.Bundle())
	if err == nil {
		return c, c.adopt(ctx, m)
	}
	if _, err := conmon.ReadExit(c.Bundle()); err == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		if c.status.StartedAt == 0 {
			c.status.StartedAt = c.CreatedAt
		}
		c.finish(ctx)
		return c, ctx.Err()
	}
	c.abandon(ctx) // a start that did not come to the container's first process
	return c, nil
}

// adopt takes over a container whose monitor runs.
func (c *Container) adopt(ctx context.Context, m *conmon.Monitor) error {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		state, err := c.runtime.State(ctx, c.ID)
		if err != nil || state.Status == specs.StateCreated || state.Status == specs.StateCreating {
			// The start was interrupted before the first process ran its command. It may be asked for again.
			m.Close()
			c.abandon(ctx)
			return nil
		}
		c.set(func(s *Status) {
			s.State, s.StartedAt, s.PID = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano(), m.ContainerPID
		})
	}
	ociruntime.EndOrphans(c.Bundle(), c.ID)
	// When the process is gone already the monitor is about to end.
	if err := c.openInit(m.ContainerPID); err != nil {
		c.env.Log.Debug("an adopted container is ending", "container", c.ID, "error", err)
	}
	c.follow = m
	c.env.following.Go(func() { c.followMonitor(m) })
	return nil
}

// endedWithMachine records that a reboot ended the container. Where only its folder is gone, it is ended now.
func (c *Container) endedWithMachine(ctx context.Context) error {
	if err := c.env.Cgroups.End(ctx, c.Cgroup); err != nil {
		return fmt.Errorf("cannot end container %s: %w", c.ID, err)
	}
	c.set(func(s *Status) {
		s.State, s.PID = runtimeapi.ContainerState_CONTAINER_EXITED, 0
		s.ExitCode, s.Reason, s.FinishedAt = unknownCode, ReasonUnknown, time.Now().UnixNano()
	})
	close(c.exited)
	close(c.cleaned)
	return nil
}
