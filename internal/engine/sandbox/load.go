package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/record"
)

// ErrIncomplete tells that a folder holds no whole sandbox: its making was interrupted.
var ErrIncomplete = errors.New("incomplete sandbox")

// List returns the IDs of all sandboxes, whole or not.
func List(env *Environment) ([]string, error) {
	ids := map[string]bool{}
	for _, dir := range []string{env.Root, env.Run} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list sandboxes: %w", err)
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

// Load adopts the sandbox id. With ErrIncomplete the sandbox is returned too, fit to be stopped and removed.
func Load(env *Environment, id string, runtime func(handler string) *ociruntime.Runtime) (*Sandbox, error) {
	s := &Sandbox{env: env}
	err := record.Read(filepath.Join(env.Root, id, "sandbox.json"), &s.Record)
	s.runtime = runtime(s.Handler)
	if err == nil && s.ID != id {
		err = fmt.Errorf("the record is of sandbox %q", s.ID)
	}
	if err != nil {
		s.ID = id
		return s, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if err := record.Read(s.file("status.json"), &s.status); err != nil {
		if _, gone := os.Stat(s.run()); gone == nil && errors.Is(err, fs.ErrNotExist) {
			return s, fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
		// The power was cut, for what is in memory is gone too, or the file is damaged. The record is durable and the status
		// is not; to give the sandbox up would be to forget its containers, which have run. The Pod gets another.
		env.Log.Warn("cannot read the status of a sandbox, so it is not ready", "sandbox", id, "error", err)
		s.status = status{}
	}
	if s.status.Ready {
		s.status.Ready = s.alive()
	}
	return s, nil
}

// alive tells whether what the sandbox consists of is still there, and follows its init.
func (s *Sandbox) alive() bool {
	if !s.pinned() || s.NetNS() != "" && !s.env.Network.Connected(s.ID) {
		return false
	}
	if s.options().GetPid() != runtimeapi.NamespaceMode_POD {
		_, err := os.Stat(s.run()) // a Pod in the host's namespaces has but its files
		return err == nil
	}
	m, err := conmon.Find(s.ID, s.bundle())
	if err != nil {
		return false
	}
	s.init = m
	s.env.following.Go(func() { s.followInit(m) })
	return true
}

// pinned tells whether all namespaces of the sandbox are pinned.
func (s *Sandbox) pinned() bool {
	for file := range namespaceFlags(s.options()) {
		if !pinned(filepath.Join(s.run(), file)) {
			return false
		}
	}
	return true
}

// Close lets go of the sandbox, which stays as it is.
func (s *Sandbox) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.init != nil {
		s.init.Close()
	}
}
