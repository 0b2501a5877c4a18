package engine_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/enginetest"
)

// pid of the container's first process.
func (s *setup) pid(t *testing.T, c *enginetest.Container) int {
	t.Helper()
	pid, err := strconv.Atoi(readFile(t, filepath.Join(s.config.RunRoot, "containers", c.ID, "pid")))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// reopen closes the engine, does the damage, and opens another. The Pods and containers are used with that.
func (s *setup) reopen(t *testing.T, damage func() error, p *enginetest.Pod, containers ...*enginetest.Container) {
	t.Helper()
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	if err := damage(); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	p.Use(s.suite())
	for _, c := range containers {
		c.Use(s.suite())
	}
}

func runs(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ") && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// listed tells whether the engine knows a container.
func (s *setup) listed(t *testing.T, id string) bool {
	t.Helper()
	r, err := s.engine.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Containers) > 0
}

func garble(path string) func() error {
	return func() error { return os.WriteFile(path, []byte(`{"ID":`), 0o600) }
}

// Each file that an engine reads when it takes over, in ruins. No container may be forgotten while its processes run.
func TestDamagedFiles(t *testing.T) {
	s := newSetup(t)
	ready, notReady := runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	for _, test := range []struct {
		name    string
		file    func(p *enginetest.Pod, c *enginetest.Container) string
		sandbox runtimeapi.PodSandboxState
		lost    bool // the container is: it has ended
	}{
		{"container status", func(_ *enginetest.Pod, c *enginetest.Container) string {
			return filepath.Join(s.config.Root, "containers", c.ID, "status.json")
		}, ready, false},
		{"container record", func(_ *enginetest.Pod, c *enginetest.Container) string {
			return filepath.Join(s.config.Root, "containers", c.ID, "container.json")
		}, ready, true},
		{"sandbox status", func(p *enginetest.Pod, _ *enginetest.Container) string {
			return filepath.Join(s.config.Root, "sandboxes", p.ID, "status.json")
		}, notReady, false},
		{"lease", func(p *enginetest.Pod, _ *enginetest.Container) string {
			return filepath.Join(s.config.Root, "network", p.ID+".json")
		}, notReady, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := s.suite().NewPod(t)
			c := p.Run("sleep 1000")
			pid := s.pid(t, c)
			s.reopen(t, garble(test.file(p, c)), p, c)
			if got := p.Status().State; got != test.sandbox {
				t.Errorf("sandbox %v, want %v", got, test.sandbox)
			}
			if listed := s.listed(t, c.ID); listed == test.lost || runs(pid) == test.lost {
				t.Errorf("the container is known: %t, its process runs: %t", listed, runs(pid))
			}
			if !test.lost && c.Status().State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("container %v", c.Status())
			}
		})
	}

	t.Run("sandbox record", func(t *testing.T) {
		before := machine(t, s)
		p := s.suite().NewPod(t)
		c := p.Run("sleep 1000")
		pid := s.pid(t, c)
		s.reopen(t, garble(filepath.Join(s.config.Root, "sandboxes", p.ID, "sandbox.json")), p)
		if after := machine(t, s); s.listed(t, c.ID) || runs(pid) || !slices.Equal(before, after) {
			t.Errorf("the container is known: %t, its process runs: %t, before:\n%s\nafter:\n%s", s.listed(t, c.ID), runs(pid), before, after)
		}
	})

	t.Run("exit", func(t *testing.T) {
		p := s.suite().NewPod(t)
		c := p.Run("while [ ! -e /go ]; do sleep 0.02; done; exit 6")
		c.Exec("(sleep 0.3; touch /go) >/dev/null 2>&1 &")
		exit := filepath.Join(s.config.RunRoot, "containers", c.ID, "exit")
		s.reopen(t, func() error {
			enginetest.Eventually(t, func() bool { _, err := os.Stat(exit); return err == nil }, "the container has not ended")
			return os.WriteFile(exit, nil, 0o600)
		}, p, c)
		if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 255 || st.Reason != "Unknown" {
			t.Errorf("container %v", st)
		}
	})
}

// A monitor that dies takes its container with it: nobody would see its end, and a second copy would run beside it.
func TestLostMonitor(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	c := p.Run("trap '' TERM; sleep 1000 & sleep 1000")
	pid := s.pid(t, c)
	monitor, err := strconv.Atoi(readFile(t, filepath.Join(s.config.RunRoot, "containers", c.ID, "conmon.pid")))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(monitor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := c.WaitExit(); st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Errorf("container %v", st)
	}
	if runs(pid) {
		t.Error("the container is told to have ended and its process runs")
	}
}

// Somebody empties the run folder under living containers.
func TestLostRunFolder(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	c := p.Run("sleep 1000")
	pid := s.pid(t, c)
	s.reopen(t, func() error {
		for _, m := range mounts(t) {
			if strings.HasPrefix(m, s.config.RunRoot) {
				exec.Command("umount", "-l", m).Run()
			}
		}
		return os.RemoveAll(s.config.RunRoot)
	}, p, c)
	if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("container %v", st)
	}
	if runs(pid) {
		t.Error("the container is told to have ended and its process runs")
	}
}

// Somebody unmounts the network namespace of a living sandbox: it is not ready, and takes no container.
func TestLostNamespace(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	running, created := p.Run("sleep 1000"), p.Create("sleep 1000")
	if err := unix.Unmount(filepath.Join(s.config.RunRoot, "sandboxes", p.ID, "net"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := created.Start(); grpcstatus.Code(err) != codes.FailedPrecondition {
		t.Errorf("start: %v", err)
	}
	if st := created.Status(); st.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("created container %v", st)
	}
	if st := p.Status(); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox %v", st)
	}
	if st := running.Status(); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("running container %v", st)
	}
}

// What an engine was killed at: a sandbox half stopped, a Pod's cgroup without its record.
func TestHalfDone(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	group := "/sys/fs/cgroup/memory" + s.config.CgroupParent
	if _, err := os.Stat(group); err != nil {
		group = "/sys/fs/cgroup" + s.config.CgroupParent
	}
	stray := filepath.Join(group, "besteffort", "podgone")
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	s.reopen(t, func() error {
		return errors.Join(
			os.WriteFile(filepath.Join(s.config.Root, "sandboxes", p.ID, "status.json"), []byte("{}"), 0o600),
			os.MkdirAll(stray, 0o755),
			os.WriteFile(filepath.Join(stray, "cgroup.procs"), []byte(strconv.Itoa(sleep.Process.Pid)), 0o600),
		)
	}, p)
	if runs(sleep.Process.Pid) {
		t.Error("what is in a cgroup that nothing owns runs on")
	}
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
	if _, err := os.Stat(stray); err == nil {
		t.Errorf("%s is still there", stray)
	}
	for _, m := range mounts(t) {
		if strings.HasPrefix(m, filepath.Join(s.config.RunRoot, "sandboxes", p.ID)) {
			t.Errorf("%s is still mounted", m)
		}
	}
}
