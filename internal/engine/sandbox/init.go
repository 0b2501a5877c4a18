package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/record"
)

const nobody = 65534

// bundle of the init; a monitor's folder is named by its container ID, which for the init is the sandbox'.
func (s *Sandbox) bundle() string { return filepath.Join(s.run(), "init", s.ID) }

// startInit runs catatonit as PID 1 of a PID namespace that the sandbox' containers then share.
func (s *Sandbox) startInit(ctx context.Context) error {
	program, err := exec.LookPath("catatonit")
	if err != nil {
		return errors.New("cannot share the PID namespace: catatonit is not installed (Debian: apt-get install catatonit)")
	}
	rootfs := filepath.Join(s.bundle(), "rootfs")
	for _, dir := range []string{"proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	spec, err := json.Marshal(s.initSpec(program, rootfs))
	if err != nil {
		return err
	}
	if err := record.WriteFile(filepath.Join(s.bundle(), "config.json"), spec, 0o600); err != nil {
		return err
	}
	m, err := s.env.Conmon.Create(ctx, conmon.Config{ID: s.ID, Bundle: s.bundle(), Runtime: s.runtime})
	if err != nil {
		return fmt.Errorf("cannot create the sandbox' init: %w", err)
	}
	s.init = m
	if err := s.runtime.Start(ctx, s.ID); err != nil {
		return fmt.Errorf("cannot start the sandbox' init: %w", err)
	}
	if err := pin(fmt.Sprintf("/proc/%d/ns/pid", m.ContainerPID), filepath.Join(s.run(), pidFile)); err != nil {
		return err
	}
	s.env.following.Go(func() { s.followInit(m) })
	return nil
}

func (s *Sandbox) initSpec(program, rootfs string) *specs.Spec {
	namespaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	for file, kind := range map[string]specs.LinuxNamespaceType{
		netFile: specs.NetworkNamespace, ipcFile: specs.IPCNamespace, utsFile: specs.UTSNamespace,
	} {
		if namespaceFlags(s.options())[file] != 0 {
			namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: filepath.Join(s.run(), file)})
		}
	}
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: []string{"/catatonit", "-P"}, Cwd: "/", NoNewPrivileges: true,
			User: specs.User{UID: nobody, GID: nobody}, Capabilities: &specs.LinuxCapabilities{},
		},
		Root: &specs.Root{Path: rootfs, Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/catatonit", Type: "bind", Source: program, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: namespaces, CgroupsPath: path.Join(s.CgroupParent, s.ID),
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/sched_debug"},
		},
	}
}

// followInit takes a sandbox whose init ended by itself for stopped: its containers' processes died with it.
func (s *Sandbox) followInit(m *conmon.Monitor) {
	if m.Wait() != nil {
		return // closed
	}
	s.mu.Lock()
	ended := s.status.Ready
	s.status.Ready = false
	s.mu.Unlock()
	if ended && s.env.InitEnded != nil {
		s.env.InitEnded(s)
	}
}

// stopInit ends what runs in the shared PID namespace. The sandbox is no longer ready.
func (s *Sandbox) stopInit(ctx context.Context) error {
	if _, err := os.Stat(s.bundle()); err != nil {
		return nil // there is none, or it was stopped
	}
	if m, err := conmon.Find(s.ID, s.bundle()); err == nil {
		defer m.Close()
		if fd, err := unix.PidfdOpen(m.ContainerPID, 0); err == nil {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			unix.Close(fd)
		}
		if err := m.Wait(); err != nil {
			return err
		}
	}
	if err := s.runtime.Delete(ctx, s.ID); err != nil {
		return fmt.Errorf("cannot delete the init of sandbox %s: %w", s.ID, err)
	}
	s.mu.Lock()
	m := s.init
	s.init = nil
	s.mu.Unlock()
	if m != nil {
		m.Close()
	}
	return os.RemoveAll(s.bundle())
}
