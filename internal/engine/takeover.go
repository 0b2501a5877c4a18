package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
		if err != nil {
			e.log.Warn("removing a sandbox that cannot be taken over", "sandbox", id, "error", err)
			broken = append(broken, s)
			continue
		}
		e.registry.addSandbox(s)
	}
	fault.Point("sandboxes taken over")
	if err := e.takeOverContainers(ctx); err != nil {
		return err
	}
	fault.Point("containers taken over")
	for _, s := range broken {
		if err := e.removeSandbox(ctx, s); err != nil {
			return err
		}
	}
	var live []string
	for _, s := range e.registry.allSandboxes() {
		if s.Ready() {
			live = append(live, s.ID)
		} else if s.Stopping() && !slices.ContainsFunc(e.registry.containersOf(s.ID), alive) {
			if err := s.Stop(ctx); err != nil {
				return err
			}
		}
	}
	if err := e.removeStrayCgroups(ctx); err != nil {
		return err
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
			e.log.Warn("removing a container that cannot be taken over", "container", id, "error", cmp.Or(err, lonely))
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

// alive tells whether the container runs.
func alive(c *container.Container) bool {
	return c.Status().State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

// removeStrayCgroups removes the groups, with what runs in them, that belong to no sandbox and no container.
func (e *Engine) removeStrayCgroups(ctx context.Context) error {
	groups, err := e.cgroups.Below(e.config.CgroupParent)
	if err != nil {
		return err
	}
	owned := map[string]bool{} // groups that something has for itself, with all below them
	above := map[string]bool{} // and those that lead there
	own := func(group string) {
		owned[group] = true
		for ; len(group) > 1; group = path.Dir(group) {
			above[group] = true
		}
	}
	own(e.monitorCgroup())
	for _, s := range e.registry.allSandboxes() {
		own(path.Join(s.CgroupParent, s.ID)) // of its init
	}
	for _, c := range e.registry.allContainers() {
		own(c.Cgroup)
	}
	for _, group := range groups {
		if above[group] || within(group, owned) {
			continue
		}
		if pids, err := e.cgroups.Procs(group); err != nil || len(pids) > 0 {
			e.log.Warn("ending what runs in a cgroup that nothing owns", "cgroup", group, "processes", pids)
		}
		if err := e.cgroups.Remove(ctx, group); err != nil {
			return err
		}
		owned[group] = true // what was below it is gone with it
	}
	return nil
}

// within tells whether the group is one of groups, or below one.
func within(group string, groups map[string]bool) bool {
	for ; len(group) > 1; group = path.Dir(group) {
		if groups[group] {
			return true
		}
	}
	return false
}
