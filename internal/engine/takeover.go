package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/sandbox"
	"peapod.dev/peapod/internal/fault"
)

// takeLock makes this the only engine on its folders, until it ends in whatever way.
func (e *Engine) takeLock() error {
	f, err := os.OpenFile(e.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another engine uses %s", e.config.Root), f.Close())
	}
	e.lock = f
	return nil
}

// takeOver adopts what an earlier engine left: it follows what runs, records what ended meanwhile, and clears away what
// was made or removed by half.
func (e *Engine) takeOver(ctx context.Context) error {
	ids, err := sandbox.List(e.sandboxes)
	if err != nil {
		return err
	}
	var broken []*sandbox.Sandbox
	for _, id := range ids {
		s, err := sandbox.Load(e.sandboxes, id, e.runtimeFor)
		if errors.Is(err, sandbox.ErrIncomplete) {
			broken = append(broken, s)
			continue
		}
		if err != nil {
			return err
		}
		e.registry.addSandbox(s)
	}
	fault.Point("sandboxes taken over")
	if err := e.takeOverContainers(ctx); err != nil {
		return err
	}
	fault.Point("containers taken over")
	for _, s := range broken {
		e.log.Warn("removing a sandbox whose making was interrupted", "sandbox", s.ID)
		if err := e.removeSandbox(ctx, s); err != nil {
			return err
		}
	}
	var live []string
	for _, s := range e.registry.allSandboxes() {
		if s.Ready() {
			live = append(live, s.ID)
		}
	}
	err = e.network.Reconcile(ctx, live)
	fault.Point("network reconciled")
	return err
}

func (e *Engine) takeOverContainers(ctx context.Context) error {
	ids, err := container.List(e.containers)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, id := range ids {
		c, err := container.Load(ctx, e.containers, id, e.runtimeFor)
		if err != nil && !errors.Is(err, container.ErrIncomplete) {
			return err
		}
		_, lonely := e.registry.sandbox(c.SandboxID)
		if err != nil || lonely != nil {
			e.log.Warn("removing a container whose making was interrupted", "container", id)
			if err := errors.Join(c.Stop(ctx, 0), e.discard(ctx, c)); err != nil {
				return err
			}
			continue
		}
		e.registry.addContainer(c)
		known[id] = true
	}
	filesystems, err := e.images.ListRootfs()
	if err != nil {
		return err
	}
	for _, id := range filesystems {
		if owner, _, _ := strings.Cut(id, "-image-"); !known[owner] {
			if err := e.images.DeleteRootfs(id); err != nil {
				return err
			}
		}
	}
	return nil
}
