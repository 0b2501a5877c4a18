// Package engine runs Pods' containers on one machine. It implements CRI v1, the contract between a node agent and a
// container engine, as plain Go methods for an agent in the same process, and on a socket for others.
//
// The engine is not needed for containers to run: each has a monitor of its own, and a new Engine over the same folders
// takes over what it finds, whatever happened to the one before. There is no lock over all of them: what is done to one
// sandbox or container never waits for another.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"peapod.dev/peapod/internal/engine/cgroup"
	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/image"
	"peapod.dev/peapod/internal/engine/network"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/ocispec"
	"peapod.dev/peapod/internal/engine/sandbox"
)

// Config says where the engine keeps things and what it may use.
type Config struct {
	Root    string // what survives a reboot
	RunRoot string // what does not: a folder on a tmpfs
	// PodCIDR is this node's range of Pod addresses. Bridge (at most 15 bytes) and CgroupParent ("/name") must be this
	// engine's own.
	PodCIDR      netip.Prefix
	Bridge       string
	CgroupParent string
	Runtime      string       // OCI runtime, by name or path; empty: crun, else runc
	Images       *image.Store // the caller's to close; nil: the machine's container storage
	StreamAddr   string       // where Serve listens for exec, attach and port-forward; default 127.0.0.1:0
	Removing     bool         // opened to be destroyed: no network is made, so that nothing can be in its way
	Log          *slog.Logger
}

// Engine is the container engine. All methods may be called concurrently.
type Engine struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	config     Config
	log        *slog.Logger
	lock       *os.File
	launcher   *ociruntime.Launcher
	runtimes   map[string]*ociruntime.Runtime // by handler; "" is the default
	images     *image.Store
	network    *network.Network
	cgroups    *cgroup.Hierarchy
	machine    *ocispec.Machine
	containers *container.Environment
	sandboxes  *sandbox.Environment
	registry   registry
	events     broker

	streamsMu sync.Mutex
	streams   streaming.Server // nil unless Serve runs
}

// New opens the engine and takes over what an earlier one left. ctx bounds the opening alone. An opening that fails
// leaves no cgroup, link or rule that was not there before.
func New(ctx context.Context, c Config) (_ *Engine, err error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.StreamAddr == "" {
		c.StreamAddr = "127.0.0.1:0"
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot run containers without being root")
	}
	e := &Engine{config: c, log: c.Log, images: c.Images, cgroups: cgroup.New(cgroup.Config{Log: c.Log})}
	e.registry.init()
	defer func() {
		if err != nil {
			err = errors.Join(err, e.abandon(context.WithoutCancel(ctx)))
		}
	}()
	for _, dir := range []string{c.Root, c.RunRoot, e.path("sandboxes"), e.path("containers"), e.runPath("sandboxes"), e.runPath("containers")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot create the engine's folder: %w", err)
		}
	}
	if err := e.takeLock(); err != nil {
		return nil, err
	}
	if err := e.openRuntimes(); err != nil {
		return nil, err
	}
	if e.machine, err = ocispec.DetectMachine(); err != nil {
		return nil, err
	}
	if e.images == nil {
		if e.images, err = image.Open(image.Config{Owner: c.Root, Log: c.Log}); err != nil {
			return nil, err
		}
	}
	monitors, err := conmon.New(e.launcher)
	if err != nil {
		return nil, err
	}
	if e.network, err = network.New(network.Config{
		Bridge: c.Bridge, Subnet: c.PodCIDR, StateDir: e.path("network"), Table: c.Bridge, Removing: c.Removing, Log: c.Log,
	}); err != nil {
		return nil, err
	}
	e.containers = &container.Environment{
		Root: e.path("containers"), Run: e.runPath("containers"),
		Conmon: monitors, Cgroups: e.cgroups, Log: c.Log, Changed: e.containerChanged,
	}
	e.sandboxes = &sandbox.Environment{
		Root: e.path("sandboxes"), Run: e.runPath("sandboxes"),
		Network: e.network, Conmon: monitors, Log: c.Log, InitEnded: e.initEnded,
	}
	return e, e.takeOver(ctx)
}

func (e *Engine) path(name string) string    { return filepath.Join(e.config.Root, name) }
func (e *Engine) runPath(name string) string { return filepath.Join(e.config.RunRoot, name) }

// monitorCgroup is the group of what runs for containers but not in them.
func (e *Engine) monitorCgroup() string { return filepath.Join(e.config.CgroupParent, "monitors") }

// openRuntimes finds the OCI runtimes and starts the thread that runs them.
func (e *Engine) openRuntimes() error {
	handlers := map[string]string{}
	for _, name := range []string{"crun", "runc"} {
		if path, err := ociruntime.Find(name); err == nil {
			handlers[name] = path
		}
	}
	name := e.config.Runtime
	switch {
	case name != "":
		path, err := ociruntime.Find(name)
		if err != nil {
			return err
		}
		name = filepath.Base(path)
		handlers[name] = path
	case handlers["crun"] != "":
		name = "crun"
	case handlers["runc"] != "":
		name = "runc"
	default:
		return errors.New("no OCI runtime is installed: crun or runc is needed (Debian: apt-get install crun)")
	}
	if err := e.cgroups.Create(e.monitorCgroup(), nil); err != nil {
		return fmt.Errorf("cannot make the monitors' cgroup: %w", err)
	}
	var err error
	e.launcher, err = ociruntime.NewLauncher(ociruntime.LauncherConfig{
		Cgroup: e.monitorCgroup(), HideUnified: e.cgroups.Mode() == cgroup.Hybrid && ociruntime.UnifiedHasController(), Log: e.log,
	})
	if err != nil {
		return err
	}
	e.runtimes = map[string]*ociruntime.Runtime{}
	for handler, path := range handlers {
		e.runtimes[handler] = ociruntime.New(handler, path, e.runPath(handler), e.launcher)
	}
	e.runtimes[""] = e.runtimes[name]
	return nil
}

// runtimeFor is the runtime of a handler that was once configured; the default when it no longer is.
func (e *Engine) runtimeFor(handler string) *ociruntime.Runtime {
	if r := e.runtimes[handler]; r != nil {
		return r
	}
	return e.runtimes[""]
}

// abandon ends an engine that could not be opened. What already runs, of an engine before, goes on running.
func (e *Engine) abandon(ctx context.Context) error {
	var err error
	if e.lock != nil { // else the cgroups are another engine's
		if e.launcher != nil {
			e.launcher.Close() // its thread is in the monitors' cgroup
		}
		err = errors.Join(e.cgroups.RemoveUnused(ctx, e.monitorCgroup()), e.cgroups.RemoveUnused(ctx, e.config.CgroupParent))
	}
	return errors.Join(err, e.Close())
}

// Close ends the engine and leaves containers running, for the next engine to take over.
func (e *Engine) Close() error {
	for _, c := range e.registry.allContainers() {
		c.Close()
	}
	for _, s := range e.registry.allSandboxes() {
		s.Close()
	}
	if e.containers != nil {
		e.containers.Wait()
		e.sandboxes.Wait()
	}
	e.events.close()
	if e.launcher != nil {
		e.launcher.Close()
	}
	var err error
	if e.config.Images == nil && e.images != nil {
		err = e.images.Close()
	}
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	return err
}

// Destroy ends and removes everything that this engine made: containers, sandboxes, mounts, cgroups, links, rules and
// folders. The engine must then be closed.
func (e *Engine) Destroy(ctx context.Context) error {
	var errs []error
	for _, s := range e.registry.allSandboxes() {
		_, err := e.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.ID})
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	e.launcher.Close() // its thread is in the monitors' cgroup
	return errors.Join(
		e.network.Destroy(ctx), e.cgroups.Remove(ctx, e.config.CgroupParent),
		os.RemoveAll(e.config.RunRoot), os.RemoveAll(e.config.Root),
	)
}

func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func notFound(what, id string) error {
	return grpcstatus.Errorf(codes.NotFound, "%s %q not found", what, id)
}
