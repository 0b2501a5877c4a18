package engine_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/enginetest"
)

func TestTakeOver(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	shared := s.suite().NewPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	running := p.Run("trap 'exit 3' TERM; while :; do sleep 0.05; done")
	inShared := shared.Run("sleep 1000")
	created := p.Create("exit 5")
	ended := p.Run("exit 4")
	ended.WaitExit()
	endsAlone := p.Run("while [ ! -e /go ]; do sleep 0.02; done; exit 6")
	killed := p.Run("sleep 1000")
	before := running.Status()
	endsAlone.Exec("(sleep 0.3; touch /go) >/dev/null 2>&1 &")
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	// What happens while no engine is there.
	exit := filepath.Join(s.config.RunRoot, "containers", endsAlone.ID, "exit")
	enginetest.Eventually(t, func() bool { _, err := os.Stat(exit); return err == nil }, "the container has not ended")
	pid, err := os.ReadFile(filepath.Join(s.config.RunRoot, "containers", killed.ID, "conmon.pid"))
	if err != nil {
		t.Fatal(err)
	}
	exec.Command("kill", "-9", string(pid)).Run() // a monitor that dies
	half := strings.Repeat("f", 64)
	for _, dir := range []string{s.config.Root + "/sandboxes/" + half, s.config.RunRoot + "/containers/" + half} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.open(t)
	suite := s.suite()
	for _, x := range []*enginetest.Container{running, created, ended, endsAlone, killed, inShared} {
		x.Use(suite)
	}
	p.Use(suite)
	shared.Use(suite)

	if st := p.Status(); st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip == "" {
		t.Errorf("sandbox %v", st)
	}
	if st := shared.Status(); st.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("sandbox with an init %v", st)
	}
	if st := running.Status(); st.State != before.State || st.StartedAt != before.StartedAt {
		t.Errorf("running %v", st)
	}
	if st := ended.Status(); st.ExitCode != 4 || st.Reason != "Error" {
		t.Errorf("ended %v", st)
	}
	if st := endsAlone.WaitExit(); st.ExitCode != 6 {
		t.Errorf("ended while no engine was there %v", st)
	}
	if st := killed.WaitExit(); st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Errorf("lost its monitor %v", st)
	}
	for _, dir := range []string{s.config.Root + "/sandboxes/" + half, s.config.RunRoot + "/containers/" + half} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	if err := created.Start(); err != nil {
		t.Error(err)
	}
	if st := created.WaitExit(); st.ExitCode != 5 {
		t.Errorf("created before %v", st)
	}
	running.Stop(10)
	if st := running.Status(); st.ExitCode != 3 {
		t.Errorf("stopped %v", st)
	}
	inShared.Exec("true")
}

func TestReboot(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	c := p.Run("sleep 1000")
	never := p.Create("true")
	// A reboot ends processes, mounts and links, and empties the folder on the tmpfs.
	pid := c.Exec("true") + readFile(t, filepath.Join(s.config.RunRoot, "containers", c.ID, "conmon.pid"))
	cpid := readFile(t, filepath.Join(s.config.RunRoot, "containers", c.ID, "pid"))
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	exec.Command("kill", "-9", pid, cpid).Run()
	for _, m := range mounts(t) {
		if strings.HasPrefix(m, s.config.RunRoot) {
			exec.Command("umount", "-l", m).Run()
		}
	}
	if err := os.RemoveAll(s.config.RunRoot); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	suite := s.suite()
	c.Use(suite)
	never.Use(suite)
	p.Use(suite)
	if st := p.Status(); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox %v", st)
	}
	for _, x := range []*enginetest.Container{c, never} {
		if st := x.Status(); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 255 || st.Reason != "Unknown" {
			t.Errorf("container %v", st)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func mounts(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		all = append(all, strings.Fields(line)[4])
	}
	slices.Reverse(all)
	return all
}

// TestNothingLeft runs a Pod of every kind and compares the machine before and after Destroy.
func TestNothingLeft(t *testing.T) {
	s := newSetup(t)
	before := machine(t, s)
	t.Run("pods", func(t *testing.T) {
		for _, pid := range []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE} {
			p := s.suite().NewPod(t, func(c *runtimeapi.PodSandboxConfig) {
				c.Linux.SecurityContext.NamespaceOptions.Pid = pid
				c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 30000 + int32(pid), ContainerPort: 80}}
			})
			p.Run("sleep 1000 & sleep 1000")
			p.Run("exit 1").WaitExit()
			p.Create("true")
			p.Create("", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/none"} }).Start()
		}
	})
	// A namespace's link goes with it, which the kernel does aside.
	enginetest.Eventually(t, func() bool { return slices.Equal(before, machine(t, s)) }, "something is left beside: "+strings.Join(before, "\n"))
	if err := s.engine.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.config.Root, s.config.RunRoot} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*" + s.config.CgroupParent); len(left) > 0 {
		t.Errorf("cgroups left: %v", left)
	}
	if out, _ := exec.Command("ip", "-o", "link", "show", s.config.Bridge).Output(); len(out) > 0 {
		t.Errorf("link left: %s", out)
	}
}

// machine lists the mounts, cgroups, links and processes that are the engine's.
func machine(t *testing.T, s *setup) []string {
	t.Helper()
	var all []string
	for _, m := range mounts(t) {
		if strings.Contains(m, s.config.RunRoot) || strings.HasPrefix(m, filepath.Dir(s.config.Root)) {
			all = append(all, m)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + s.config.CgroupParent + "/*")
	for _, g := range groups {
		if info, err := os.Stat(g); err == nil && info.IsDir() {
			all = append(all, g)
		}
	}
	links, _ := exec.Command("ip", "-o", "link", "show", "master", s.config.Bridge).Output()
	all = append(all, string(links))
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		if line, _ := os.ReadFile(p); strings.Contains(string(line), s.config.RunRoot) {
			all = append(all, string(line))
		}
	}
	for _, dir := range []string{"/sandboxes", "/containers", "/crun", "/network"} {
		for _, root := range []string{s.config.Root, s.config.RunRoot} {
			entries, _ := os.ReadDir(root + dir)
			for _, e := range entries {
				all = append(all, root+dir+"/"+e.Name())
			}
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return strings.HasSuffix(s, "/overlay") || strings.Contains(s, "/network/") })
}
