package engine

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/sandbox"
)

// registry finds sandboxes and containers. Its lock is held for a look only.
type registry struct {
	mu         sync.RWMutex
	sandboxes  map[string]*sandbox.Sandbox
	containers map[string]*container.Container
	names      map[string]string // of sandboxes and containers → ID
}

func (r *registry) init() {
	r.sandboxes, r.containers, r.names = map[string]*sandbox.Sandbox{}, map[string]*container.Container{}, map[string]string{}
}

// reserve keeps name for id; another may not have it before release.
func (r *registry) reserve(name, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if owner, taken := r.names[name]; taken && owner != id {
		return grpcstatus.Errorf(codes.AlreadyExists, "name %q is reserved for %q", name, owner)
	}
	r.names[name] = id
	return nil
}

func (r *registry) release(name, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names[name] == id {
		delete(r.names, name)
	}
}

func (r *registry) addSandbox(s *sandbox.Sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes[s.ID], r.names[sandboxName(s.Config.GetMetadata())] = s, s.ID
}

func (r *registry) addContainer(c *container.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[c.ID], r.names[containerName(c.SandboxID, c.Config.GetMetadata())] = c, c.ID
}

func (r *registry) deleteSandbox(s *sandbox.Sandbox) {
	r.mu.Lock()
	delete(r.sandboxes, s.ID)
	r.mu.Unlock()
	r.release(sandboxName(s.Config.GetMetadata()), s.ID)
}

func (r *registry) deleteContainer(c *container.Container) {
	r.mu.Lock()
	delete(r.containers, c.ID)
	r.mu.Unlock()
	r.release(containerName(c.SandboxID, c.Config.GetMetadata()), c.ID)
}

// sandbox finds one by ID or by the beginning of one.
func (r *registry) sandbox(id string) (*sandbox.Sandbox, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s := find(r.sandboxes, id); s != nil {
		return s, nil
	}
	return nil, notFound("sandbox", id)
}

// container finds one by ID or by the beginning of one.
func (r *registry) container(id string) (*container.Container, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c := find(r.containers, id); c != nil {
		return c, nil
	}
	return nil, notFound("container", id)
}

func find[T any](all map[string]*T, id string) *T {
	if one, ok := all[id]; ok || id == "" {
		return one
	}
	var found *T
	for full, one := range all {
		if strings.HasPrefix(full, id) {
			if found != nil {
				return nil // ambiguous
			}
			found = one
		}
	}
	return found
}

func (r *registry) allSandboxes() []*sandbox.Sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return newestFirst(r.sandboxes, func(s *sandbox.Sandbox) (int64, string) { return s.CreatedAt, s.ID })
}

func (r *registry) allContainers() []*container.Container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return newestFirst(r.containers, func(c *container.Container) (int64, string) { return c.CreatedAt, c.ID })
}

// containersOf lists the containers of a sandbox.
func (r *registry) containersOf(sandboxID string) []*container.Container {
	return slices.DeleteFunc(r.allContainers(), func(c *container.Container) bool { return c.SandboxID != sandboxID })
}

func newestFirst[T any](all map[string]*T, key func(*T) (int64, string)) []*T {
	list := make([]*T, 0, len(all))
	for _, one := range all {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b *T) int {
		ta, ia := key(a)
		tb, ib := key(b)
		return cmp.Or(cmp.Compare(tb, ta), cmp.Compare(ia, ib))
	})
	return list
}
