package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

func onTmpfs(t testing.TB, path string) (is bool, size uint64) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		t.Fatal(err)
	}
	mounted, err := isMountPoint(path)
	if err != nil {
		t.Fatal(err)
	}
	return mounted && stat.Type == unix.TMPFS_MAGIC, stat.Blocks * uint64(stat.Bsize)
}

// serviceAccountPod is what the API server's admission makes of a Pod.
func serviceAccountPod() *v1.Pod {
	return podWith(v1.Volume{Name: "kube-api-access", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{
		DefaultMode: new(int32(0o644)),
		Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(3607))}},
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items: []v1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
				{Path: "cpu", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu"}},
			}}},
		},
	}}})
}

func serviceAccountFixture(t testing.TB) *fixture {
	f := newVolumes(t, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kube-root-ca.crt", ResourceVersion: "1"}, Data: map[string]string{"ca.crt": "CA"}})
	f.client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		request.Status = authenticationv1.TokenRequestStatus{Token: "secret-token", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
		return true, request, nil
	})
	return f
}

func TestServiceAccountVolume(t *testing.T) {
	needsRoot(t)
	f := serviceAccountFixture(t)
	pod := serviceAccountPod()
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(2000)), RunAsUser: new(int64(1000))}
	volumes, err := f.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	dir := volumes["kube-api-access"].HostPath
	if got := read(t, dir, "token") + " " + read(t, dir, "ca.crt") + " " + read(t, dir, "namespace") + " " + read(t, dir, "cpu"); got != "secret-token CA ns 4" {
		t.Errorf("contents = %q", got)
	}
	info, err := os.Stat(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "token"), &stat); err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o640 || stat.Uid != 1000 || stat.Gid != 2000 {
		t.Errorf("token: mode %v, owner %d:%d, want 0640 1000:2000", info.Mode(), stat.Uid, stat.Gid)
	}
	if is, size := onTmpfs(t, dir); !is || size != 64<<20 {
		t.Errorf("on a tmpfs: %v, size %d", is, size)
	}

	// A daemon that was killed in the middle of a write leaves a link; the next one, which knows nothing, goes on.
	if err := os.Symlink("nowhere", filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	pod.Namespace, pod.Spec.Volumes[0].Projected.Sources = "ns", pod.Spec.Volumes[0].Projected.Sources[1:]
	if _, err := f.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "token")); !os.IsNotExist(err) {
		t.Errorf("file of a source that is gone: %v", err)
	}
	if err := f.Teardown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.podDir(pod.UID)); !os.IsNotExist(err) {
		t.Errorf("after Teardown: %v", err)
	}
}

func TestMemoryEmptyDirAndSecret(t *testing.T) {
	needsRoot(t)
	f := newVolumes(t, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"password": []byte("x")}})
	limit := resource.MustParse("1Mi")
	pod := podWith(
		v1.Volume{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}},
		v1.Volume{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: new(int32(0o400))}}},
	)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(2000))}
	for range 2 {
		volumes, err := f.Setup(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		mem, sec := volumes["mem"].HostPath, volumes["sec"].HostPath
		if is, size := onTmpfs(t, mem); !is || size != 1<<20 || mode(t, mem)&(fs.ModePerm|fs.ModeSetgid) != 0o777|fs.ModeSetgid {
			t.Errorf("mem: tmpfs %v, size %d, mode %v", is, size, mode(t, mem))
		}
		if is, _ := onTmpfs(t, sec); !is || read(t, sec, "password") != "x" || mode(t, sec, "password") != 0o440 {
			t.Errorf("sec: tmpfs %v, mode %v", is, mode(t, sec, "password"))
		}
	}
	mounts := strings.Count(read(t, "/proc/self/mountinfo"), f.podDir(pod.UID))
	if mounts != 2 {
		t.Errorf("%d mounts, want 2", mounts)
	}
}

func TestSubPath(t *testing.T) {
	needsRoot(t)
	f := newVolumes(t)
	host := t.TempDir()
	if err := os.Chmod(host, 0o2771|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(host, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "one")
	pod, mount := podWith(), &v1.VolumeMount{Name: "v"}
	resolve := func(index int, subPath string) (string, error) {
		return f.ResolveSubPath(pod, "c", index, mount, host, subPath)
	}

	path, err := resolve(0, "file")
	if err != nil || read(t, path) != "one" || !strings.HasSuffix(path, "/uid-1/volume-subpaths/v/c/0") {
		t.Fatalf("file: %s, %v", path, err)
	}
	if err := os.Remove(filepath.Join(host, "file")); err != nil {
		t.Fatal(err)
	}
	if read(t, path) != "one" {
		t.Error("what the container sees changed with the name")
	}
	write("file", "two")
	for range 2 {
		if path, err = resolve(0, "file"); err != nil || read(t, path) != "two" {
			t.Errorf("replaced file: %v", err)
		}
	}
	if n := strings.Count(read(t, "/proc/self/mountinfo"), path+" "); n != 1 {
		t.Errorf("%d mounts at %s", n, path)
	}

	if path, err = resolve(1, "a/b"); err != nil || !mode(t, path).IsDir() {
		t.Fatalf("new folder: %v", err)
	}
	for _, name := range []string{"a", "a/b"} {
		if got := mode(t, host, name); got.Perm() != 0o771 || got&fs.ModeSetgid == 0 {
			t.Errorf("%s: mode %v", name, got)
		}
	}

	for link, target := range map[string]string{"up": "../..", "abs": "/etc", "in": "a"} {
		if err := os.Symlink(target, filepath.Join(host, link)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := resolve(2, "in/b"); err != nil {
		t.Errorf("a link within the volume: %v", err)
	}
	for _, escape := range []string{"up", "up/etc", "abs", "abs/passwd"} {
		if _, err := resolve(3, escape); err == nil || err.Error() != `failed to prepare subPath for volumeMount "v" of container "c"` {
			t.Errorf("%s: %v", escape, err)
		}
	}
	if _, err := resolve(3, "up/new"); err == nil {
		t.Error("made a folder out of the volume")
	}
	for subPath, want := range map[string]string{
		"/etc":   "error SubPath `/etc` must not be an absolute path",
		"a/../b": "unable to provision SubPath `a/../b`: must not contain '..'",
	} {
		if _, err := resolve(4, subPath); err == nil || err.Error() != want {
			t.Errorf("%s: %v", subPath, err)
		}
	}

	// Teardown by folder only, by a daemon that never saw the Pod, leaves the host's files alone.
	again, err := New(f.config)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Teardown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if read(t, host, "file") != "two" || !mode(t, host, "a/b").IsDir() {
		t.Error("Teardown reached into the host's folder")
	}
	if strings.Contains(read(t, "/proc/self/mountinfo"), f.config.Root) {
		t.Error("mounts are left")
	}
}

func TestNestedMountPoint(t *testing.T) {
	f := newVolumes(t, configMapObject(map[string]string{"k": "v"}))
	pod := podWith(volumeOf(configMapSource(false)))
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/etc/x"}, {Name: "other", MountPath: "/etc/x/inner"}}
	volumes, err := f.Setup(t.Context(), pod)
	if err != nil || !mode(t, volumes["v"].HostPath, "inner").IsDir() {
		t.Errorf("no mount point for the volume within: %v", err)
	}
}

// BenchmarkServiceAccountVolume has a budget of 10 ms, the token request included.
func BenchmarkServiceAccountVolume(b *testing.B) {
	needsRoot(b)
	f := serviceAccountFixture(b)
	for b.Loop() {
		pod := serviceAccountPod()
		if _, err := f.Setup(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
		if err := f.Teardown(b.Context(), pod.UID); err != nil {
			b.Fatal(err)
		}
	}
}
