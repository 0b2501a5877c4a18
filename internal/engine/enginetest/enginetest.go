// Package enginetest is the suite that every CRI v1 engine of peapod must pass, and that other engines pass too.
//
// It speaks CRI alone. Every test makes Pods of its own and removes them.
package enginetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Engine is what is tested.
type Engine interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// Suite runs the tests against Engine. Image must be present there and have a shell and busybox' programs.
type Suite struct {
	Engine Engine
	Image  string
}

// Run runs all tests.
func (s Suite) Run(t *testing.T) {
	for name, test := range map[string]func(*testing.T, Suite){
		"Status": testStatus, "SandboxLife": testSandboxLife, "SandboxFiles": testSandboxFiles, "Sysctls": testSysctls,
		"SharedPID": testSharedPID, "HostNamespaces": testHostNamespaces,
		"ContainerLife": testContainerLife, "ExitCodes": testExitCodes, "StartError": testStartError,
		"StopGrace": testStopGrace, "StopShortened": testStopShortened, "StopSignal": testStopSignal, "Log": testLog, "ExecSync": testExecSync,
		"ExecTimeout": testExecTimeout, "OOM": testOOM, "Resources": testResources, "Events": testEvents,
		"Idempotent": testIdempotent, "Mounts": testMounts, "Stats": testStats, "Filters": testFilters,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

var attempts atomic.Uint32 //nolint:gochecknoglobals // names must differ within the process

// Pod is a sandbox under test.
type Pod struct {
	t      testing.TB
	s      Suite
	ID     string
	Config *runtimeapi.PodSandboxConfig
}

// NewPod runs a sandbox, which ends with the test.
func (s Suite) NewPod(t testing.TB, change ...func(*runtimeapi.PodSandboxConfig)) *Pod {
	t.Helper()
	n := attempts.Add(1)
	p := &Pod{t: t, s: s, Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprintf("pod%d", n), Namespace: "enginetest", Uid: fmt.Sprintf("uid%d-%d", os.Getpid(), n)},
		Hostname: fmt.Sprintf("pod%d", n), LogDirectory: t.TempDir(), Labels: map[string]string{"test": t.Name()},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}}
	for _, f := range change {
		f(p.Config)
	}
	r, err := s.Engine.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: p.Config})
	if err != nil {
		t.Fatal("RunPodSandbox:", err)
	}
	p.ID = r.PodSandboxId
	t.Cleanup(func() {
		if _, err := p.s.Engine.RemovePodSandbox(context.Background(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Error("RemovePodSandbox:", err)
		}
	})
	return p
}

// Status of the sandbox.
func (p *Pod) Status() *runtimeapi.PodSandboxStatus {
	p.t.Helper()
	r, err := p.s.Engine.PodSandboxStatus(p.t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.t.Fatal("PodSandboxStatus:", err)
	}
	return r.Status
}

// Container is a container under test.
type Container struct {
	p      *Pod
	ID     string
	Config *runtimeapi.ContainerConfig
}

// Create makes a container that will run the shell script.
func (p *Pod) Create(script string, change ...func(*runtimeapi.ContainerConfig)) *Container {
	p.t.Helper()
	n := attempts.Add(1)
	c := &Container{p: p, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprintf("c%d", n)}, Image: &runtimeapi.ImageSpec{Image: p.s.Image},
		Command: []string{"sh", "-c", script}, LogPath: fmt.Sprintf("c%d.log", n),
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: p.Config.Linux.SecurityContext.NamespaceOptions,
		}, Resources: &runtimeapi.LinuxContainerResources{}},
	}}
	for _, f := range change {
		f(c.Config)
	}
	r, err := p.s.Engine.CreateContainer(p.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: c.Config, SandboxConfig: p.Config})
	if err != nil {
		p.t.Fatal("CreateContainer:", err)
	}
	c.ID = r.ContainerId
	return c
}

// Run creates and starts a container.
func (p *Pod) Run(script string, change ...func(*runtimeapi.ContainerConfig)) *Container {
	p.t.Helper()
	c := p.Create(script, change...)
	if err := c.Start(); err != nil {
		p.t.Fatal("StartContainer:", err)
	}
	return c
}

// Start starts the container.
func (c *Container) Start() error {
	_, err := c.p.s.Engine.StartContainer(c.p.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ID})
	return err
}

// Stop stops the container.
func (c *Container) Stop(seconds int64) {
	c.p.t.Helper()
	if _, err := c.p.s.Engine.StopContainer(c.p.t.Context(), &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: seconds}); err != nil {
		c.p.t.Error("StopContainer:", err)
	}
}

// Status of the container.
func (c *Container) Status() *runtimeapi.ContainerStatus {
	c.p.t.Helper()
	r, err := c.p.s.Engine.ContainerStatus(c.p.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		c.p.t.Fatal("ContainerStatus:", err)
	}
	return r.Status
}

// WaitExit returns the status once the container has exited.
func (c *Container) WaitExit() *runtimeapi.ContainerStatus {
	c.p.t.Helper()
	var last *runtimeapi.ContainerStatus
	Eventually(c.p.t, func() bool {
		last = c.Status()
		return last.State == runtimeapi.ContainerState_CONTAINER_EXITED
	}, "container has not exited")
	return last
}

// Exec runs a shell script in the container and returns what it wrote.
func (c *Container) Exec(script string) string {
	c.p.t.Helper()
	r, err := c.p.s.Engine.ExecSync(c.p.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", script}, Timeout: 30})
	if err != nil {
		c.p.t.Fatal("ExecSync:", err)
	}
	if r.ExitCode != 0 {
		c.p.t.Errorf("%s: exit code %d, %s", script, r.ExitCode, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// Log is the log's lines without time, stream first.
func (c *Container) Log() []string {
	c.p.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.p.Config.LogDirectory, c.Config.LogPath))
	if err != nil {
		c.p.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		lines = append(lines, rest)
	}
	return lines
}

// Eventually waits for a condition, at most 20 seconds.
func Eventually(t testing.TB, condition func() bool, otherwise string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if got := grpcstatus.Code(err); got != want {
		t.Errorf("got %v (%v), want code %v", got, err, want)
	}
}

// Events are collected from an engine, in process.
type Events struct {
	grpc.ServerStream
	ctx context.Context
	C   chan *runtimeapi.ContainerEventResponse
}

// Context ends the subscription.
func (e *Events) Context() context.Context { return e.ctx }

// Send receives an event.
func (e *Events) Send(r *runtimeapi.ContainerEventResponse) error { e.C <- r; return nil }

// Use continues with another engine over the same Pods.
func (p *Pod) Use(s Suite) { p.s.Engine = s.Engine }

// Use continues with another engine over the same Pods.
func (c *Container) Use(s Suite) { c.p.s.Engine = s.Engine }
