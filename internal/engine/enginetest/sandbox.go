package enginetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testStatus(t *testing.T, s Suite) {
	v, err := s.Engine.Version(t.Context(), &runtimeapi.VersionRequest{})
	if err != nil || v.RuntimeApiVersion != "v1" {
		t.Errorf("Version: %v, %v", v, err)
	}
	st, err := s.Engine.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Status.Conditions {
		if !c.Status {
			t.Errorf("%s is not true", c.Type)
		}
	}
	if _, err := s.Engine.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{
		Config:         &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "x", Namespace: "x", Uid: "x"}},
		RuntimeHandler: "nope",
	}); err == nil || !strings.Contains(err.Error(), `no runtime for "nope" is configured`) {
		t.Errorf("an unknown runtime handler: %v", err)
	}
}

func testSandboxLife(t *testing.T, s Suite) {
	p := s.NewPod(t)
	st := p.Status()
	if st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip == "" || st.CreatedAt == 0 {
		t.Errorf("status %v", st)
	}
	if _, err := s.Engine.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: p.Config}); err == nil {
		t.Error("a second sandbox of the same name was made")
	}
	c := p.Run("sleep 1000")
	for range 2 {
		if _, err := s.Engine.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if st := p.Status(); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("stopped sandbox is %v", st.State)
	}
	if st := c.Status(); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
		t.Errorf("container of a stopped sandbox: %v", st)
	}
	for range 2 {
		if _, err := s.Engine.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Engine.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	wantCode(t, err, codes.NotFound)
	_, err = s.Engine.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID})
	wantCode(t, err, codes.NotFound)
}

func testSandboxFiles(t *testing.T, s Suite) {
	p := s.NewPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.1.2.3"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
	})
	c := p.Run("sleep 1000")
	if got := c.Exec("cat /etc/resolv.conf"); got != "search a.example b.example\nnameserver 10.1.2.3\noptions ndots:5" {
		t.Errorf("resolv.conf is %q", got)
	}
	for _, script := range []string{"hostname", "cat /etc/hostname", "echo $HOSTNAME"} {
		if got := c.Exec(script); got != p.Config.Hostname {
			t.Errorf("%s: %q", script, got)
		}
	}
	if got := c.Exec("df -k /dev/shm | tail -1 | awk '{print $2}'"); got != "65536" {
		t.Errorf("/dev/shm has %s KiB", got)
	}
	c.Exec("touch /dev/shm/x")
	if got := p.Run("sleep 1000").Exec("ls /dev/shm"); got != "x" {
		t.Errorf("/dev/shm is not the Pod's: %q", got)
	}
	if got := c.Exec("ip -o addr show eth0"); !strings.Contains(got, p.Status().Network.Ip+"/") {
		t.Errorf("eth0: %q", got)
	}
}

func testSysctls(t *testing.T, s Suite) {
	with := func(name, value string) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{name: value} }
	}
	c := s.NewPod(t, with("net.ipv4.ip_unprivileged_port_start", "81")).Run("sleep 1000")
	if got := c.Exec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "81" {
		t.Errorf("sysctl is %q", got)
	}
	c = s.NewPod(t, with("kernel.shm_rmid_forced", "1")).Run("sleep 1000")
	if got := c.Exec("cat /proc/sys/kernel/shm_rmid_forced"); got != "1" {
		t.Errorf("sysctl is %q", got)
	}
	for name, value := range map[string]string{"net.no.such": "1", "kernel.panic": "1", "net.ipv4.ip_forward": "x", "net.ipv4/../../kernel/panic": "1"} {
		_, err := s.Engine.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "bad-sysctl", Namespace: "enginetest", Uid: name},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{name: value}},
		}})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("sysctl %s=%s: %v", name, value, err)
		}
	}
}

func testSharedPID(t *testing.T, s Suite) {
	p := s.NewPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	a := p.Run("sleep 1001 & sleep 1002")
	b := p.Run("sleep 1003")
	ps := a.Exec("ps -o pid,args")
	for _, want := range []string{"1 /catatonit -P", "sleep 1001", "sleep 1003"} {
		if !strings.Contains(ps, want) {
			t.Errorf("%q is missing in\n%s", want, ps)
		}
	}
	a.Stop(0)
	if st := a.Status(); st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
	Eventually(t, func() bool { return !strings.Contains(b.Exec("ps -o args"), "sleep 1001") }, "a process outlived its container")
}

func testHostNamespaces(t *testing.T, s Suite) {
	p := s.NewPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
		}
	})
	c := p.Run("sleep 1000 & sleep 1000")
	for _, ns := range []string{"net", "pid", "ipc", "uts"} {
		want, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Exec("readlink /proc/self/ns/" + ns); got != want {
			t.Errorf("%s: %s, host %s", ns, got, want)
		}
	}
	if ip := p.Status().Network.GetIp(); ip != "" {
		t.Errorf("a Pod on the host's network has address %s", ip)
	}
	c.Stop(0)
	c.WaitExit()
}

func testIdempotent(t *testing.T, s Suite) {
	for _, err := range []error{
		second(s.Engine.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "none"})),
		second(s.Engine.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "none"})),
		second(s.Engine.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: "none"})),
		second(s.Engine.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: "none"})),
		second(s.Engine.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "no/such:image"}})),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, err := range []error{
		second(s.Engine.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: "none"})),
		second(s.Engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "none", Cmd: []string{"x"}})),
		second(s.Engine.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: "none", Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "x"}}})),
	} {
		wantCode(t, err, codes.NotFound)
	}
}

func second[T any](_ T, err error) error { return err }

func testMounts(t *testing.T, s Suite) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c := s.NewPod(t).Run("sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{HostPath: filepath.Join(dir, "link"), ContainerPath: "/rw"},
			{HostPath: dir, ContainerPath: "/ro", Readonly: true},
			{HostPath: filepath.Join(dir, "made"), ContainerPath: "/made"},
		}
	})
	if got := c.Exec("cat /rw/file; echo x >/rw/new; cat /ro/new; ls -d /made; touch /ro/x 2>/dev/null || echo ro"); got != "hellox\n/made\nro" {
		t.Errorf("got %q", got)
	}
}
