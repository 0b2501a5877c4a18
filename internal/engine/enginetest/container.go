package enginetest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testContainerLife(t *testing.T, s Suite) {
	p := s.NewPod(t)
	c := p.Create("trap 'exit 7' TERM; while :; do sleep 0.05; done")
	if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_CREATED || st.StartedAt != 0 || st.FinishedAt != 0 || st.ImageRef == "" || st.ImageId == "" {
		t.Errorf("created: %v", st)
	}
	_, err := s.Engine.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: c.Config, SandboxConfig: p.Config})
	if err == nil {
		t.Error("a second container of the same name was made")
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.StartedAt < st.CreatedAt {
		t.Errorf("started: %v", st)
	}
	if err := c.Start(); err == nil {
		t.Error("started twice")
	}
	c.Exec("true")
	c.Stop(10)
	c.Stop(10)
	st := c.Status()
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 7 || st.Reason != "Error" || st.FinishedAt < st.StartedAt {
		t.Errorf("stopped: %v", st)
	}
	for range 2 {
		if _, err := s.Engine.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Engine.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	wantCode(t, err, codes.NotFound)
	never := p.Create("true")
	if _, err := s.Engine.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: never.ID}); err != nil {
		t.Error(err)
	}
}

func testExitCodes(t *testing.T, s Suite) {
	p := s.NewPod(t)
	for _, x := range []struct {
		script, reason string
		code           int32
	}{{"exit 0", "Completed", 0}, {"exit 3", "Error", 3}, {"kill -9 $$; sleep 9", "Error", 137}, {"exec sh -c 'kill -SEGV $PPID; exit 139'", "Error", 139}} {
		if strings.Contains(x.script, "$$") {
			// the first process of a PID namespace cannot kill itself
			x.script = "sh -c 'kill -9 $$'; exit $?"
		}
		st := p.Run(x.script).WaitExit()
		if st.ExitCode != x.code || st.Reason != x.reason {
			t.Errorf("%s: %v", x.script, st)
		}
	}
}

func testStartError(t *testing.T, s Suite) {
	c := s.NewPod(t).Create("", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/no/such/command"} })
	err := c.Start()
	if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("StartContainer: %v", err)
	}
	st := c.Status()
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 128 || st.Reason != "StartError" || st.StartedAt != 0 || st.FinishedAt == 0 || !strings.Contains(st.Message, "/no/such/command") {
		t.Errorf("status %v", st)
	}
	_, err = s.Engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}})
	if err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("exec in a container that does not run: %v", err)
	}
}

func testStopGrace(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("trap '' TERM; echo ready; while :; do sleep 0.1; done")
	Eventually(t, func() bool { return len(c.Log()) > 0 }, "no output")
	begin := time.Now()
	c.Stop(1)
	if took := time.Since(begin); took < time.Second || took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if st := c.Status(); st.ExitCode != 137 || st.Reason != "Error" {
		t.Errorf("status %v", st)
	}
}

func testStopSignal(t *testing.T, s Suite) {
	p := s.NewPod(t)
	for signal, name := range map[runtimeapi.Signal]string{
		runtimeapi.Signal_SIGNAL_SIGUSR1: "USR1", runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3: "37",
	} {
		c := p.Run("trap 'exit 42' "+name+"; echo ready; while :; do sleep 0.02; done", func(c *runtimeapi.ContainerConfig) { c.StopSignal = signal })
		Eventually(t, func() bool { return len(c.Log()) > 0 }, "no output")
		c.Stop(20)
		if st := c.Status(); st.ExitCode != 42 || st.StopSignal != signal {
			t.Errorf("%v: %v", signal, st)
		}
	}
	if st := p.Create("true").Status(); st.StopSignal != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("by default %v", st.StopSignal)
	}
}

func testStopShortened(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("trap '' TERM; echo ready; while :; do sleep 0.1; done")
	Eventually(t, func() bool { return len(c.Log()) > 0 }, "no output")
	long := make(chan struct{})
	go func() { c.Stop(600); close(long) }()
	c.Stop(1)
	<-long
	if st := c.Status(); st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
}

func testLog(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("echo out; echo err >&2; printf 'no newline'; while [ ! -e /go ]; do sleep 0.02; done; echo after")
	Eventually(t, func() bool { return len(c.Log()) >= 2 }, "no output")
	log := filepath.Join(c.p.Config.LogDirectory, c.Config.LogPath)
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Engine.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Error("the log was not reopened:", err)
	}
	c.Exec("touch /go")
	c.WaitExit()
	if !slices.ContainsFunc(c.Log(), func(l string) bool { return strings.HasSuffix(l, "after") }) {
		t.Errorf("new log: %q", c.Log())
	}
	c.Config.LogPath += ".1"
	if got := c.Log(); !slices.Contains(got, "stdout F out") || !slices.Contains(got, "stderr F err") {
		t.Errorf("old log: %q", got)
	}
}

func testExecSync(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b c")}}
		c.WorkingDir = "/tmp"
	})
	exec := func(cmd ...string) (*runtimeapi.ExecSyncResponse, error) {
		return s.Engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: cmd, Timeout: 30})
	}
	r, err := exec("sh", "-c", "echo out $A; pwd; echo err >&2; exit 5")
	if err != nil || string(r.Stdout) != "out b c\n/tmp\n" || string(r.Stderr) != "err\n" || r.ExitCode != 5 {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := exec("sh", "-c", "exit 255"); err != nil || r.ExitCode != 255 {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := exec("-x"); err == nil {
		t.Errorf("a command that is not there: %v", r)
	}
	r, err = exec("sh", "-c", "dd if=/dev/zero bs=1M count=17 2>/dev/null; echo end >&2")
	if err != nil || len(r.Stdout) != 16<<20 || string(r.Stderr) != "end\n" {
		t.Errorf("long output: %d bytes, %v", len(r.GetStdout()), err)
	}
	begin := time.Now()
	if _, err := exec("sh", "-c", "sleep 100 & exit 0"); err != nil || time.Since(begin) > 10*time.Second {
		t.Errorf("a command that leaves a process behind: %v after %v", err, time.Since(begin))
	}
}

func testExecTimeout(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("sleep 1000")
	_, err := s.Engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sleep", "1000"}, Timeout: 1})
	wantCode(t, err, codes.DeadlineExceeded)
	if got := c.Exec("grep -l ' Z ' /proc/[0-9]*/stat || true"); got != "" {
		t.Errorf("the killed command stays in the container as a zombie: %s", got)
	}
	begin := time.Now()
	_, err = s.Engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", "trap '' TERM; sleep 2001 & sleep 2002"}, Timeout: 1})
	wantCode(t, err, codes.DeadlineExceeded)
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	Eventually(t, func() bool { return !strings.Contains(c.Exec("ps -o args"), "sleep 200") }, "the command was not killed")
}

func testOOM(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("dd if=/dev/zero of=/dev/null bs=200M count=5", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes = 32 << 20
		c.Linux.Resources.MemorySwapLimitInBytes = 32 << 20
	})
	if st := c.WaitExit(); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
}

func testResources(t *testing.T, s Suite) {
	c := s.NewPod(t).Run("sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	})
	if r := c.Status().Resources.GetLinux(); r.GetMemoryLimitInBytes() != 64<<20 || r.GetCpuQuota() != 50000 {
		t.Errorf("resources %v", r)
	}
	if _, err := s.Engine.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{CpuQuota: 70000, MemoryLimitInBytes: 96 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	if r := c.Status().Resources.GetLinux(); r.GetMemoryLimitInBytes() != 96<<20 || r.GetCpuQuota() != 70000 || r.GetCpuShares() != 512 {
		t.Errorf("updated resources %v", r)
	}
}

func testEvents(t *testing.T, s Suite) {
	ctx, cancel := context.WithCancel(t.Context())
	events := &Events{ctx: ctx, C: make(chan *runtimeapi.ContainerEventResponse, 100)}
	ended := make(chan error, 1)
	go func() { ended <- s.Engine.GetContainerEvents(&runtimeapi.GetEventsRequest{}, events) }()
	defer func() { cancel(); <-ended }()
	var p *Pod
	Eventually(t, func() bool { p = s.NewPod(t); return len(events.C) > 0 }, "no events")
	c := p.Run("exit 4")
	c.WaitExit()
	if _, err := s.Engine.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	var kinds []runtimeapi.ContainerEventType
	for len(kinds) < 4 {
		select {
		case e := <-events.C:
			if e.ContainerId != c.ID {
				continue
			}
			kinds = append(kinds, e.ContainerEventType)
			if e.PodSandboxStatus.GetId() != p.ID {
				t.Errorf("event without its sandbox: %v", e)
			}
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT && e.ContainersStatuses[0].ExitCode != 4 {
				t.Errorf("exit event: %v", e)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("got events %v", kinds)
		}
	}
	if want := []runtimeapi.ContainerEventType{0, 1, 2, 3}; !slices.Equal(kinds, want) {
		t.Errorf("events %v", kinds)
	}
}

func testStats(t *testing.T, s Suite) {
	p := s.NewPod(t)
	c := p.Run("while :; do :; done")
	Eventually(t, func() bool {
		r, err := s.Engine.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		return r.Stats.Cpu.UsageCoreNanoSeconds.Value > 10e6 && r.Stats.Memory.WorkingSetBytes.Value > 0
	}, "no use was measured")
	r, err := s.Engine.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatal(err)
	}
	if l := r.Stats.Linux; l.Network.GetDefaultInterface().GetName() != "eth0" || len(l.Containers) != 1 || l.Cpu.UsageCoreNanoSeconds.Value == 0 {
		t.Errorf("Pod's stats %v", r.Stats)
	}
}

func testFilters(t *testing.T, s Suite) {
	p := s.NewPod(t)
	c := p.Create("true", func(c *runtimeapi.ContainerConfig) { c.Labels = map[string]string{"k": c.Metadata.Name} })
	for _, x := range []struct {
		filter *runtimeapi.ContainerFilter
		want   int
	}{
		{&runtimeapi.ContainerFilter{Id: c.ID}, 1}, {&runtimeapi.ContainerFilter{PodSandboxId: p.ID}, 1},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"k": c.Config.Metadata.Name}}, 1},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"k": "other"}}, 0},
		{&runtimeapi.ContainerFilter{Id: c.ID, State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}, 0},
	} {
		r, err := s.Engine.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: x.filter})
		if err != nil || len(r.Containers) != x.want {
			t.Errorf("filter %v: %v, %v", x.filter, r, err)
		}
	}
	pods, err := s.Engine.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: p.Config.Labels}})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Id != p.ID {
		t.Errorf("%v, %v", pods, err)
	}
}
