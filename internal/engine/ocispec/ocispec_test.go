package ocispec

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
)

var update = flag.Bool("update", false, "write the golden files")

// input is an ordinary container of an ordinary Pod, as the agent sends it.
func input() Input {
	m := everything()
	m.Devices = func(path string) ([]specs.LinuxDevice, error) {
		fuse := specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}
		switch path {
		case "/dev":
			return []specs.LinuxDevice{fuse, {Path: "/dev/snd/seq", Type: "c", Major: 116, Minor: 1}}, nil
		case "/dev/fuse":
			return []specs.LinuxDevice{fuse}, nil
		case "/dev/snd":
			return []specs.LinuxDevice{{Path: "/dev/snd/seq", Type: "c", Major: 116, Minor: 1}}, nil
		}
		return nil, os.ErrNotExist
	}
	return Input{
		ID: "c1", SandboxID: "s1",
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
			Image:    &runtimeapi.ImageSpec{Image: "sha256:1234"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				},
			},
		},
		Sandbox: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"},
		},
		Image: imgspecv1.ImageConfig{
			Entrypoint: []string{"/bin/serve"}, Cmd: []string{"--all"}, WorkingDir: "/srv",
			Env: []string{"PATH=/bin", "COLOR=blue", "broken"},
		},
		Rootfs:      "/rootfs",
		Namespaces:  Namespaces{Net: "/run/ns/net", IPC: "/run/ns/ipc", UTS: "/run/ns/uts"},
		CgroupsPath: "/peapod/podu1/c1", CgroupMode: cgroup.V2, Hostname: "web",
		ResolvConf: "/run/s1/resolv.conf", HostnameFile: "/run/s1/hostname", Shm: "/run/s1/shm",
		Machine: m,
	}
}

func security(in *Input) *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.Linux.SecurityContext
}

func TestGolden(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"plain": func(*Input) {},
		"hybrid": func(in *Input) {
			in.CgroupMode = cgroup.Hybrid
			in.Machine.Hugetlb, in.Machine.MinOOMScoreAdj = false, 0
			r := in.Container.Linux.Resources
			r.OomScoreAdj = -997
			r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}
			r.Unified = map[string]string{"pids.max": "100"}
		},
		"limits": func(in *Input) {
			in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
				CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20,
				CpusetCpus: "0", OomScoreAdj: 900, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
				Unified: map[string]string{"memory.oom.group": "0", "memory.high": "1000000"},
			}
		},
		"privileged": func(in *Input) {
			security(in).Privileged = true
			in.Machine.Capabilities = []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}
			security(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		},
		"host-namespaces": func(in *Input) {
			security(in).NamespaceOptions = &runtimeapi.NamespaceOption{
				Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
			}
			in.Namespaces = Namespaces{Net: "/run/ns/net"}
		},
		"shared-pid": func(in *Input) {
			security(in).NamespaceOptions = &runtimeapi.NamespaceOption{}
			in.Namespaces.PID = "/proc/77/ns/pid"
			in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{
				"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "0",
			}}
		},
		"locked-down": func(in *Input) {
			sc := security(in)
			sc.NoNewPrivs, sc.ReadonlyRootfs = true, true
			sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/kcore"}, []string{}
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"net_raw"}}
			sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
			in.Machine.AppArmor = map[string]bool{"mine": true}
			in.User = User{UID: 1000, GID: 2000, AdditionalGids: []uint32{2000, 3000}}
		},
		"mounts": func(in *Input) {
			in.Container.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/data/deep/er", HostPath: "/h/3", Readonly: true, RecursiveReadOnly: true},
				{ContainerPath: "/data", HostPath: "/h/1", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/etc/resolv.conf", HostPath: "/h/resolv", Readonly: true},
				{ContainerPath: "/dev", HostPath: "/dev", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
				{ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: "x"}, MountOptions: []string{"noexec"}},
			}
			in.ImageMounts = map[string]string{"/img": "/h/img"}
			in.ImageVolumes = map[string]string{"/var/lib/db": "/h/vol", "/data": "/h/shadowed"}
		},
		"devices": func(in *Input) {
			in.Container.Devices = []*runtimeapi.Device{
				{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse0", Permissions: "rw"},
				{HostPath: "/dev/snd", ContainerPath: "/dev/sound", Permissions: "r"},
			}
		},
		"tty": func(in *Input) {
			in.Container.Tty = true
			in.Container.Command, in.Container.WorkingDir = []string{"sh"}, "/tmp"
			in.Container.Envs = []*runtimeapi.KeyValue{{Key: "COLOR", Value: []byte("red=1")}, {Key: "HOSTNAME", Value: []byte("x")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			spec, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != strings.TrimSpace(string(want)) {
				t.Errorf("%s is not what the rules make (-update, and look at the difference):\n%s", file, got)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct{ entrypoint, cmd, command, args, want string }{
		{"e", "c", "", "", "e c"},
		{"e", "c", "", "a", "e a"},
		{"e", "c", "k", "", "k"},
		{"e", "c", "k", "a", "k a"},
		{"", "c", "", "", "c"},
		{"", "", "", "a", "a"},
	} {
		in := input()
		in.Image.Entrypoint, in.Image.Cmd = strings.Fields(c.entrypoint), strings.Fields(c.cmd)
		in.Container.Command, in.Container.Args = strings.Fields(c.command), strings.Fields(c.args)
		spec, err := Build(in)
		if err != nil || strings.Join(spec.Process.Args, " ") != c.want {
			t.Errorf("%+v: %v, %v", c, spec, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for want, change := range map[string]func(*Input){
		"no command specified":               func(in *Input) { in.Image = imgspecv1.ImageConfig{} },
		"the sandbox has no pid namespace":   func(in *Input) { security(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET },
		"user namespaces are not supported":  func(in *Input) { security(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{} },
		`device "/dev/none"`:                 func(in *Input) { in.Container.Devices = []*runtimeapi.Device{{HostPath: "/dev/none"}} },
		`cannot mount at "/x": no host path`: func(in *Input) { in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x"}} },
		"recursive read-only needs": func(in *Input) {
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/", RecursiveReadOnly: true}}
		},
		`sysctl "vm.swappiness" is not in`: func(in *Input) {
			in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"vm/swappiness": "1"}}
		},
		"apparmor profile not found gone": func(in *Input) {
			in.Machine.AppArmor = map[string]bool{}
			security(in).ApparmorProfile = "localhost/gone"
		},
		`cannot load seccomp profile "/no/such"`: func(in *Input) { security(in).SeccompProfilePath = "localhost//no/such" },
	} {
		in := input()
		change(&in)
		_, err := Build(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
		if (want == ErrNoCommand.Error()) != errors.Is(err, ErrNoCommand) {
			t.Errorf("errors.Is(%v, ErrNoCommand) is wrong", err)
		}
	}
}

func TestSeccomp(t *testing.T) {
	in := input()
	security(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	spec, err := Build(in)
	if err != nil || spec.Linux.Seccomp == nil || spec.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Fatalf("RuntimeDefault: %+v, %v", spec, err)
	}
	in.Machine.Seccomp = false
	if spec, err = Build(in); err != nil || spec.Linux.Seccomp != nil {
		t.Errorf("RuntimeDefault without seccomp: %v", err)
	}

	in = input()
	file := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(file, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	security(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}
	if spec, err = Build(in); err != nil || len(spec.Linux.Seccomp.Syscalls) != 1 {
		t.Errorf("Localhost: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		add, drop []string
		has, not  string
		count     int
	}{
		{nil, nil, "CAP_CHOWN", "CAP_SYS_ADMIN", 14},
		{[]string{"SYS_TIME"}, []string{"CHOWN"}, "CAP_SYS_TIME", "CAP_CHOWN", 14},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, "CAP_SYS_TIME", "CAP_SYS_ADMIN", len(everything().Capabilities) - 1},
		{[]string{"CAP_KILL"}, []string{"all"}, "CAP_KILL", "CAP_CHOWN", 1},
		{[]string{"NOT_KNOWN"}, nil, "CAP_CHOWN", "CAP_NOT_KNOWN", 14},
	} {
		in := input()
		security(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: c.add, DropCapabilities: c.drop}
		spec, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		got := spec.Process.Capabilities.Bounding
		if len(got) != c.count || !slices.Contains(got, c.has) || slices.Contains(got, c.not) {
			t.Errorf("add %v drop %v: %v", c.add, c.drop, got)
		}
	}
}

func TestDetectMachine(t *testing.T) {
	m, err := DetectMachine()
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := HostDevices("/dev/null")
	if err != nil || len(nodes) != 1 || nodes[0].Major != 1 || nodes[0].Minor != 3 || nodes[0].Path != "/dev/null" {
		t.Errorf("HostDevices(/dev/null) = %+v, %v", nodes, err)
	}
	t.Logf("%+v", m)
}
