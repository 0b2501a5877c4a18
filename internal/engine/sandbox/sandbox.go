// Package sandbox makes the environment of a Pod: namespaces, network, and the files that its containers share.
//
// No process holds a sandbox: its namespaces are pinned by bind mounts. Only where the containers share a PID namespace
// there is one, a minimal init, which is PID 1 there and reaps.
//
// On disk: ROOT/ID/sandbox.json (immutable, durable before any container runs) and status.json; RUN/ID with the pins and
// files, which a reboot ends, and with it the sandbox' readiness.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/network"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/ocispec"
	"peapod.dev/peapod/internal/engine/record"
	"peapod.dev/peapod/internal/fault"
)

// Environment is what sandboxes are made with.
type Environment struct {
	Root, Run string
	Network   *network.Network
	Conmon    *conmon.Conmon
	Log       *slog.Logger
	InitEnded func(*Sandbox) // called once when the init of a ready sandbox ended by itself

	following sync.WaitGroup
}

// Wait returns when nothing is done for sandboxes any more, all of which were closed or removed.
func (env *Environment) Wait() { env.following.Wait() }

// Record is what does not change in a sandbox' life.
type Record struct {
	ID           string
	Config       *runtimeapi.PodSandboxConfig
	Handler      string // runtime handler, as requested
	CgroupParent string // of the Pod's containers
	CreatedAt    int64  // Unix nanoseconds
}

type status struct {
	Ready bool
	IPs   []netip.Addr
}

// Sandbox is one Pod's environment. Safe for concurrent use.
type Sandbox struct {
	Record
	env     *Environment
	runtime *ociruntime.Runtime
	durable *record.Syncing

	// Events serialises reports about the sandbox and its containers, so that the newest is the last.
	Events sync.Mutex

	op     sync.Mutex // one Stop or Remove at a time
	mu     sync.Mutex // guards what is below
	status status
	init   *conmon.Monitor
}

// Create makes a sandbox. On error nothing of it is left.
func Create(ctx context.Context, env *Environment, r Record, runtime *ociruntime.Runtime) (_ *Sandbox, err error) {
	s := &Sandbox{Record: r, env: env, runtime: runtime}
	for _, dir := range []string{s.dir(), s.run()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot create sandbox: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)), s.Remove())
		}
	}()
	fault.Point("sandbox folders made")
	if err := record.Write(s.file("sandbox.json"), &r); err != nil {
		return nil, fmt.Errorf("cannot record sandbox: %w", err)
	}
	fault.Point("sandbox recorded")
	s.durable = record.StartSync(s.file("sandbox.json"))

	hostname := r.Config.GetHostname()
	flags := namespaceFlags(s.options())
	if _, own := flags[utsFile]; !own || hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	if err := makeNamespaces(s.run(), flags, hostname, r.Config.GetLinux().GetSysctls()); err != nil {
		return nil, err
	}
	fault.Point("namespaces made")
	if err := makeFiles(s.run(), hostname, r.Config, flags[ipcFile] != 0); err != nil {
		return nil, err
	}
	if s.NetNS() != "" {
		result, err := env.Network.Setup(ctx, s.pod())
		if err != nil {
			return nil, fmt.Errorf("cannot set up the network of the sandbox: %w", err)
		}
		s.status.IPs = result.IPs
		fault.Point("network set up")
	}
	if s.options().GetPid() == runtimeapi.NamespaceMode_POD {
		if err := s.startInit(ctx); err != nil {
			return nil, err
		}
		fault.Point("sandbox init started")
	}
	s.status.Ready = true
	err = record.Write(s.file("status.json"), s.status)
	fault.Point("sandbox status recorded")
	return s, err
}

func (s *Sandbox) dir() string             { return filepath.Join(s.env.Root, s.ID) }
func (s *Sandbox) run() string             { return filepath.Join(s.env.Run, s.ID) }
func (s *Sandbox) file(name string) string { return filepath.Join(s.dir(), name) }

func (s *Sandbox) options() *runtimeapi.NamespaceOption {
	return s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// NetNS is the path of the pinned network namespace; empty with the host's network.
func (s *Sandbox) NetNS() string {
	if namespaceFlags(s.options())[netFile] == 0 {
		return ""
	}
	return filepath.Join(s.run(), netFile)
}

// Fill writes what containers get of the sandbox into the input of their specs.
func (s *Sandbox) Fill(in *ocispec.Input) {
	path := func(file string) string { return filepath.Join(s.run(), file) }
	flags := namespaceFlags(s.options())
	in.SandboxID, in.Sandbox, in.Hostname = s.ID, s.Config, s.Config.GetHostname()
	in.ResolvConf, in.HostnameFile = path("resolv.conf"), path("hostname")
	if flags[netFile] != 0 {
		in.Namespaces.Net, in.Namespaces.UTS = path(netFile), path(utsFile)
	}
	if flags[ipcFile] != 0 {
		in.Namespaces.IPC, in.Shm = path(ipcFile), path("shm")
	}
	if s.options().GetPid() == runtimeapi.NamespaceMode_POD {
		in.Namespaces.PID = path(pidFile)
	}
}

func (s *Sandbox) pod() network.Pod {
	m := s.Config.GetMetadata()
	p := network.Pod{SandboxID: s.ID, NetNS: s.NetNS(), Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid()}
	for _, port := range s.Config.GetPortMappings() {
		if port.GetHostPort() > 0 {
			p.Ports = append(p.Ports, network.PortMapping{
				HostIP: port.GetHostIp(), HostPort: port.GetHostPort(), ContainerPort: port.GetContainerPort(),
				Protocol: port.GetProtocol().String(),
			})
		}
	}
	return p
}

// Ready tells whether containers may run in the sandbox.
func (s *Sandbox) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Ready
}

// Check looks whether the sandbox is still whole, and makes it not ready if somebody has taken away its namespaces.
func (s *Sandbox) Check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Ready && !s.pinned() {
		s.env.Log.Warn("a sandbox has lost its namespaces", "sandbox", s.ID)
		s.status.Ready = false
	}
}

// IPs are the Pod's own addresses; none with the host's network.
func (s *Sandbox) IPs() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.IPs
}

// Durable waits until the sandbox' record would survive a power cut.
func (s *Sandbox) Durable() error {
	if err := s.durable.Wait(); err != nil {
		return fmt.Errorf("cannot make the record of sandbox %s durable: %w", s.ID, err)
	}
	return nil
}

// Stop ends the sandbox: its init, network and namespaces. Its containers must have ended. Idempotent.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	s.mu.Lock()
	s.status.Ready = false
	st := s.status
	s.mu.Unlock()
	// First of all, so that a crash from here on leaves a sandbox that will be stopped again. A full disk is no reason to
	// keep what would make room: without this record, the missing namespaces tell of the end.
	if err := record.Write(s.file("status.json"), st); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.env.Log.Error("cannot record the end of a sandbox", "sandbox", s.ID, "error", err)
	}
	fault.Point("sandbox stop recorded")
	err := s.stopInit(ctx)
	fault.Point("sandbox init stopped")
	if path := s.NetNS(); path != "" {
		if nerr := s.env.Network.Teardown(ctx, s.ID, path); nerr != nil {
			return errors.Join(err, fmt.Errorf("cannot take down the network of sandbox %s: %w", s.ID, nerr))
		}
	}
	fault.Point("network taken down")
	for _, file := range mountpoints {
		err = errors.Join(err, unmountAll(filepath.Join(s.run(), file)))
	}
	return err
}

// mountpoints are the files and folders, below a sandbox' own, on which something is mounted until it is stopped.
var mountpoints = [...]string{pidFile, netFile, utsFile, ipcFile, shmDir}

// Stopping tells whether a Stop was interrupted.
func (s *Sandbox) Stopping() bool {
	if s.Ready() {
		return false
	}
	for _, file := range append(mountpoints[:], "init") {
		if _, err := os.Lstat(filepath.Join(s.run(), file)); err == nil {
			return true
		}
	}
	return false
}

// Remove deletes a stopped sandbox. Idempotent.
func (s *Sandbox) Remove() error {
	s.op.Lock()
	defer s.op.Unlock()
	_ = s.durable.Wait() // its goroutine works in the folder
	err := os.RemoveAll(s.run())
	fault.Point("sandbox run folder removed")
	return errors.Join(err, os.RemoveAll(s.dir()))
}
