package ocispec

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
)

// TestRun has real runtimes take specs of every kind.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const busybox = "/bin/busybox"
	shell, err := os.ReadFile(busybox)
	if err != nil {
		t.Skip("needs busybox-static")
	}
	machine, err := DetectMachine()
	if err != nil {
		t.Fatal(err)
	}
	mode := cgroup.Detect()
	host := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}
	for _, runtime := range []string{"crun", "runc"} {
		if _, err := exec.LookPath(runtime); err != nil {
			t.Logf("no %s here", runtime)
			continue
		}
		for name, c := range map[string]struct {
			script string
			sc     *runtimeapi.LinuxContainerSecurityContext
			want   string
		}{
			"plain": {
				"id -u; pwd; echo $HOSTNAME; echo $$; umask; cat /etc/hostname; ! touch /sys/x; test -c /dev/null",
				&runtimeapi.LinuxContainerSecurityContext{}, "0\n/srv\nweb\n1\n0022\nweb\n",
			},
			"locked down": {
				"id -u; id -g; grep CapEff /proc/self/status | cut -f2; grep Seccomp: /proc/self/status | cut -f2; grep NoNewPrivs /proc/self/status | cut -f2; ! touch /x; exit 0",
				&runtimeapi.LinuxContainerSecurityContext{
					RunAsUser: &runtimeapi.Int64Value{Value: 1000}, NoNewPrivs: true, ReadonlyRootfs: true,
					Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
					Seccomp:      &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				}, "1000\n0\n0000000000000000\n2\n1\n",
			},
			"privileged": {
				"grep -q ' /sys sysfs rw' /proc/mounts && echo rw; ls /dev | grep -c . | awk '{print ($1 > 10)}'",
				&runtimeapi.LinuxContainerSecurityContext{Privileged: true}, "rw\n1\n",
			},
		} {
			t.Run(runtime+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				rootfs := filepath.Join(dir, "rootfs")
				for _, sub := range []string{"bin", "srv", "etc"} {
					if err := os.MkdirAll(filepath.Join(rootfs, sub), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				for _, app := range []string{"sh", "id", "ls", "cat", "touch", "grep", "cut", "awk", "test"} {
					if err := os.WriteFile(filepath.Join(rootfs, "bin", app), shell, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				hostname := filepath.Join(dir, "hostname")
				if err := os.WriteFile(hostname, []byte("web\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				in := input()
				in.Machine, in.CgroupMode, in.Rootfs = machine, mode, rootfs
				in.CgroupsPath = fmt.Sprintf("/peapod-test-spec-%d/c", os.Getpid())
				in.ResolvConf, in.HostnameFile, in.Shm = "/etc/resolv.conf", hostname, ""
				in.Namespaces = Namespaces{}
				in.Image = imgspecv1.ImageConfig{Entrypoint: []string{"/bin/sh", "-c", c.script}, WorkingDir: "/srv"}
				in.Container.Linux.SecurityContext = c.sc
				in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -10}
				c.sc.NamespaceOptions = host
				if in.User, err = ResolveUser(rootfs, "", c.sc); err != nil {
					t.Fatal(err)
				}
				spec, err := Build(in)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := json.Marshal(spec)
				if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
					t.Fatal(err)
				}
				command := runtime + " --root " + dir + "/state run --bundle " + dir + " t" + strings.ReplaceAll(name, " ", "")
				cmd := exec.Command("sh", "-c", command)
				if mode == cgroup.Hybrid { // which crun refuses while it sees it
					cmd = exec.Command("unshare", "-m", "sh", "-c", "umount /sys/fs/cgroup/unified; exec "+command)
				}
				t.Cleanup(func() {
					if err := cgroup.New(cgroup.Config{}).Remove(context.Background(), filepath.Dir(in.CgroupsPath)); err != nil {
						t.Log(err)
					}
				})
				out, err := cmd.Output()
				if err != nil || string(out) != c.want {
					var stderr []byte
					if e, ok := err.(*exec.ExitError); ok {
						stderr = e.Stderr
					}
					t.Errorf("%v: %q, want %q; %s", err, out, c.want, stderr)
				}
			})
		}
	}
}
