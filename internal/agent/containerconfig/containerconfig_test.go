package containerconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testNode() *Node {
	return &Node{
		LogRoot:           "/data/log/pods",
		SeccompRoot:       "/data/seccomp",
		CgroupRoot:        "/peapod",
		CgroupV2:          true,
		SwapAccounting:    true,
		SELinux:           true,
		RecursiveReadOnly: true,
		MemoryCapacity:    1 << 30,
		Allocatable:       v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("512Mi")},
		HostIPs:           []string{"192.0.2.1", "2001:db8::1"},
		ClusterDomain:     "cluster.local",
		HostDNS:           &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"rotate"}},
	}
}

type fakeSources struct{}

func (fakeSources) GetConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name == "settings" {
		return &v1.ConfigMap{Data: map[string]string{"who": "world", "not.a-name": "kept"}}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (fakeSources) GetSecret(_ context.Context, _, name string) (*v1.Secret, error) {
	if name == "login" {
		return &v1.Secret{Data: map[string][]byte{"password": []byte("hush")}}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func (fakeSources) EnvFile(_ context.Context, ref *v1.FileKeySelector) (string, error) {
	if ref.Key == "gone" {
		return "", nil
	}
	return "from " + ref.VolumeName + "/" + ref.Path, nil
}

func (fakeSources) Mount(_ context.Context, _ int, mount *v1.VolumeMount, subPath string) (*runtimeapi.Mount, error) {
	switch mount.Name {
	case "img":
		return &runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: "sha256:img"}, ImageSubPath: subPath, Readonly: true}, nil
	case "gone":
		return nil, errors.New("no such volume")
	}
	return &runtimeapi.Mount{HostPath: filepath.Join("/volumes", mount.Name, subPath), Readonly: mount.Name == "conf", SelinuxRelabel: true}, nil
}

func loadPod(t *testing.T, name string) *v1.Pod {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(text, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func input(pod *v1.Pod) *Container {
	return &Container{
		Pod: pod, Container: &pod.Spec.Containers[0], Attempt: 2,
		Image:              &runtimeapi.Image{Id: "sha256:busybox"},
		PodIPs:             []string{"10.88.0.5"},
		ServiceEnv:         map[string]string{"DB_HOST": "10.96.0.9", "KEY": "overridden"},
		HostsPath:          "/data/pods/uid/etc-hosts",
		TerminationLogPath: "/data/pods/uid/containers/app/00000002",
		Sources:            fakeSources{},
	}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"rich", "plain"} {
		t.Run(name, func(t *testing.T) {
			pod, node := loadPod(t, name), testNode()
			sandbox, warnings, err := node.Sandbox(pod, 1)
			if err != nil {
				t.Fatal(err)
			}
			container, err := node.Container(t.Context(), input(pod))
			if err != nil {
				t.Fatal(err)
			}
			// On a real machine /proc's thermal files are masked, too.
			security := container.Linux.SecurityContext
			security.MaskedPaths = slices.DeleteFunc(security.MaskedPaths, func(path string) bool { return strings.Contains(path, "thermal_throttle") })
			again, err := node.Container(t.Context(), input(pod))
			if err != nil {
				t.Fatal(err)
			}
			got := encode(t, map[string]any{"sandbox": sandbox, "warnings": warnings, "container": container})
			again.Linux.SecurityContext.MaskedPaths = security.MaskedPaths
			if !bytes.Equal(encode(t, container), encode(t, again)) {
				t.Error("the same input gave another message")
			}
			golden := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (run with -update and look at the difference):\n%s", golden, got)
			}
		})
	}
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestContainerErrors(t *testing.T) {
	env := func(source v1.EnvVarSource) func(*Container) {
		return func(in *Container) { in.Container.Env = []v1.EnvVar{{Name: "X", ValueFrom: &source}} }
	}
	ref := func(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }
	nonRoot := func(in *Container) {
		in.Container.SecurityContext = &v1.SecurityContext{RunAsNonRoot: new(true)}
	}
	mount := func(mount v1.VolumeMount) func(*Container) {
		return func(in *Container) { in.Container.VolumeMounts = []v1.VolumeMount{mount} }
	}
	const who = `(pod: "plain_default(aaaaaaaa-2222-3333-4444-555555555555)", container: shell)`
	for name, test := range map[string]struct {
		change func(*Container)
		want   string
	}{
		"no ConfigMap":  {env(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref("x"), Key: "k"}}), `configmap "x" not found`},
		"no key":        {env(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref("settings"), Key: "k"}}), "couldn't find key k in ConfigMap default/settings"},
		"no Secret":     {env(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref("x"), Key: "k"}}), `secret "x" not found`},
		"no Secret key": {env(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref("login"), Key: "k"}}), "couldn't find key k in Secret default/login"},
		"no file key":   {env(v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{Path: "p", Key: "gone"}}), `environment variable key "gone" not found in file "p"`},
		"envFrom": {func(in *Container) {
			in.Container.EnvFrom = []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: ref("x")}}}
		}, `secret "x" not found`},
		"image is root":    {nonRoot, "container has runAsNonRoot and image will run as root " + who},
		"image has a name": {func(in *Container) { nonRoot(in); in.Image.Username = "www" }, "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root " + who},
		"asks for root":    {func(in *Container) { nonRoot(in); in.Container.SecurityContext.RunAsUser = new(int64(0)) }, "container's runAsUser breaks non-root policy " + who},
		"subPathExpr":      {mount(v1.VolumeMount{Name: "data", MountPath: "/d", SubPathExpr: "$(B)/$(A)"}), "missing value for A, B"},
		"recursive":        {mount(v1.VolumeMount{Name: "data", MountPath: "/d", RecursiveReadOnly: new(v1.RecursiveReadOnlyEnabled)}), `failed to resolve recursive read-only mode: volume "data" requested recursive read-only mode, but it is not read-only`},
		"propagation":      {mount(v1.VolumeMount{Name: "data", MountPath: "/d", MountPropagation: new(v1.MountPropagationMode("Odd"))}), `invalid MountPropagation mode: "Odd"`},
		"no volume":        {mount(v1.VolumeMount{Name: "gone", MountPath: "/d"}), "no such volume"},
		"block device":     {func(in *Container) { in.Container.VolumeDevices = []v1.VolumeDevice{{Name: "disk"}} }, `cannot find volume "disk" to pass into container "shell"`},
		"seccomp": {func(in *Container) {
			in.Container.SecurityContext = &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost}}
		}, "localhostProfile must be set if seccompProfile type is Localhost."},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(loadPod(t, "plain"))
			test.change(in)
			if _, err := testNode().Container(t.Context(), in); err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestImageUserAndTarget(t *testing.T) {
	in := input(loadPod(t, "rich"))
	in.Pod.Spec.ShareProcessNamespace = nil
	in.Container.SecurityContext = nil
	in.Image.Username = "www"
	in.TargetID = "abc"
	config, err := testNode().Container(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	sc := config.Linux.SecurityContext
	if sc.RunAsUsername != "www" || sc.RunAsUser != nil {
		t.Errorf("user %v %q", sc.RunAsUser, sc.RunAsUsername)
	}
	if sc.NamespaceOptions.Pid != runtimeapi.NamespaceMode_TARGET || sc.NamespaceOptions.TargetId != "abc" {
		t.Errorf("namespaces %v", sc.NamespaceOptions)
	}
}

func TestHostname(t *testing.T) {
	node := testNode()
	for name, test := range map[string]struct {
		spec           v1.PodSpec
		pod            string
		host, domain   string
		kernel, errors string
	}{
		"name":          {pod: "web", host: "web", kernel: "web"},
		"long name":     {pod: strings.Repeat("a", 62) + ".b", host: strings.Repeat("a", 62), kernel: strings.Repeat("a", 62)},
		"subdomain":     {pod: "web", spec: v1.PodSpec{Subdomain: "sub"}, host: "web", domain: "sub.ns.svc.cluster.local", kernel: "web"},
		"fqdn":          {pod: "web", spec: v1.PodSpec{Subdomain: "sub", SetHostnameAsFQDN: new(true)}, host: "web", domain: "sub.ns.svc.cluster.local", kernel: "web.sub.ns.svc.cluster.local"},
		"long fqdn":     {pod: strings.Repeat("a", 60), spec: v1.PodSpec{Subdomain: "sub", SetHostnameAsFQDN: new(true)}, host: strings.Repeat("a", 60), domain: "sub.ns.svc.cluster.local", errors: "is too long (64 characters is the max, 85 characters requested)"},
		"override":      {pod: "web", spec: v1.PodSpec{HostnameOverride: new("db.example"), Hostname: "x", Subdomain: "sub"}, host: "db.example", kernel: "db.example"},
		"bad hostname":  {pod: "web", spec: v1.PodSpec{Hostname: "a.b"}, errors: `pod Hostname "a.b" is not a valid DNS label: `},
		"bad subdomain": {pod: "web", spec: v1.PodSpec{Subdomain: "a.b"}, errors: `pod Subdomain "a.b" is not a valid DNS label: `},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{Spec: test.spec}
			pod.Name, pod.Namespace, pod.Spec.DNSPolicy = test.pod, "ns", v1.DNSDefault
			host, domain, err := node.Hostname(pod)
			if host != test.host || domain != test.domain {
				t.Errorf("Hostname = %q %q, want %q %q", host, domain, test.host, test.domain)
			}
			config, _, sandboxErr := node.Sandbox(pod, 0)
			if err = errors.Join(err, sandboxErr); (err == nil) != (test.errors == "") || err != nil && !strings.Contains(err.Error(), test.errors) {
				t.Errorf("error %v, want %q", err, test.errors)
			}
			if config.GetHostname() != test.kernel {
				t.Errorf("in the sandbox: %q, want %q", config.GetHostname(), test.kernel)
			}
		})
	}
}

func TestResources(t *testing.T) {
	quantities := func(cpu, memory string) v1.ResourceList {
		list := v1.ResourceList{}
		if cpu != "" {
			list[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			list[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return list
	}
	for name, test := range map[string]struct {
		requests, limits      v1.ResourceList
		shares, quota, memory int64
		oom                   int64
		parent                string
	}{
		"best effort": {nil, nil, 2, 0, 0, 1000, "/peapod/besteffort/poduid"},
		"guaranteed":  {quantities("1", "256Mi"), quantities("1", "256Mi"), 1024, 100000, 256 << 20, -997, "/peapod/poduid"},
		"burstable":   {quantities("250m", "512Mi"), nil, 256, 0, 0, 500, "/peapod/burstable/poduid"},
		"tiny limit":  {nil, quantities("1m", ""), 2, 1000, 0, 999, "/peapod/burstable/poduid"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: test.requests, Limits: test.limits}}}}}
			pod.UID = "uid"
			node := testNode()
			got := node.ContainerResources(pod, &pod.Spec.Containers[0])
			if got.CpuShares != test.shares || got.CpuQuota != test.quota || got.MemoryLimitInBytes != test.memory || got.OomScoreAdj != test.oom || got.CpuPeriod != 100000 {
				t.Errorf("got %v", got)
			}
			if parent := node.CgroupParent(pod); parent != test.parent {
				t.Errorf("cgroup %s, want %s", parent, test.parent)
			}
			node.CgroupV2 = false
			if got := node.ContainerResources(pod, &pod.Spec.Containers[0]); got.Unified != nil || got.MemorySwapLimitInBytes != test.memory {
				t.Errorf("cgroup v1: %v", got)
			}
		})
	}
}

// What a container's annotations keep of its Pod is enough to end it as its Pod would.
func TestRestore(t *testing.T) {
	grace := int64(7)
	was := &v1.Container{
		Name: "app", Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 80}},
		Lifecycle: &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3}}},
	}
	plain := &v1.Container{Name: "plain"}
	pod := &v1.Pod{Spec: v1.PodSpec{TerminationGracePeriodSeconds: &grace}}
	restored := &v1.Pod{}
	for _, c := range []*v1.Container{was, plain, was} {
		Restore(restored, c.Name, containerAnnotations(pod, c, 0))
	}
	want := v1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []v1.Container{*was, *plain}}
	if !equality.Semantic.DeepEqual(restored.Spec, want) {
		t.Errorf("got %+v, want %+v", restored.Spec, want)
	}
}
