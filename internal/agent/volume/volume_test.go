package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

type fixture struct {
	*Volumes
	client  *fake.Clientset
	changed chan types.UID
}

func newVolumes(t testing.TB, objects ...runtime.Object) *fixture {
	t.Helper()
	f := &fixture{client: fake.NewClientset(objects...), changed: make(chan types.UID, 100)}
	volumes, err := New(Config{
		Root:   filepath.Join(t.TempDir(), "pods"),
		Client: f.client,
		GetNode: func() (*v1.Node, error) {
			return &v1.Node{Status: v1.NodeStatus{Allocatable: v1.ResourceList{
				v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("64Mi")}}}, nil
		},
		Changed: func(pod types.UID) { f.changed <- pod },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Volumes = volumes
	t.Cleanup(func() {
		volumes.Close()
		pods, err := volumes.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, pod := range pods {
			if err := volumes.Teardown(context.Background(), pod); err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "uid-1", Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{ServiceAccountName: "default", Containers: []v1.Container{{Name: "c"}}, Volumes: volumes},
	}
}

func volumeOf(source v1.VolumeSource) v1.Volume { return v1.Volume{Name: "v", VolumeSource: source} }

func configMapObject(data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}, Data: data}
}

func configMapSource(optional bool, items ...v1.KeyToPath) v1.VolumeSource {
	return v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "x"},
		DefaultMode: new(int32(0o644)), Optional: &optional, Items: items}}
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func read(t testing.TB, elems ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elems...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mode(t testing.TB, elems ...string) os.FileMode {
	t.Helper()
	info, err := os.Stat(filepath.Join(elems...))
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// settle lets watches catch up and then does what a Pod's owner does when something changed.
func (f *fixture) settle(t *testing.T, pod *v1.Pod) error {
	t.Helper()
	synctest.Wait()
	select {
	case uid := <-f.changed:
		if uid != pod.UID || len(f.changed) != 0 {
			t.Errorf("change for Pod %q and %d more", uid, len(f.changed))
		}
	default:
		t.Error("nothing changed")
	}
	return f.Update(t.Context(), pod)
}

func TestConfigMap(t *testing.T) { synctest.Test(t, testConfigMap) }

func testConfigMap(t *testing.T) {
	object := configMapObject(map[string]string{"a": "1", "b": "2"})
	object.ResourceVersion = "1"
	f := newVolumes(t, object)
	pod := podWith(volumeOf(configMapSource(false, v1.KeyToPath{Key: "a", Path: "dir/a", Mode: new(int32(0o400))}, v1.KeyToPath{Key: "b", Path: "b"})))
	volumes, err := f.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	dir := volumes["v"].HostPath
	if want := filepath.Join(f.config.Root, "uid-1/volumes/kubernetes.io~configmap/v"); dir != want || !volumes["v"].ReadOnly {
		t.Errorf("volume = %+v, want read-only at %s", volumes["v"], want)
	}
	if got := read(t, dir, "dir/a") + read(t, dir, "b"); got != "12" {
		t.Errorf("contents = %q", got)
	}
	if a, b := mode(t, dir, "dir/a"), mode(t, dir, "b"); a != 0o400 || b != 0o644 {
		t.Errorf("modes = %v %v", a, b)
	}
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	if _, err := f.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(dir, "..data")); after != before {
		t.Error("contents were written again though nothing changed")
	}

	synctest.Wait()
	update := configMapObject(map[string]string{"a": "new", "b": "2"})
	update.ResourceVersion = "2"
	if _, err := f.client.CoreV1().ConfigMaps("ns").Update(t.Context(), update, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.settle(t, pod); err != nil || read(t, dir, "dir/a") != "new" {
		t.Errorf("after an update: %v", err)
	}
	if err := f.client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.settle(t, pod); err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : configmap "x" not found` {
		t.Errorf("after deletion: %v", err)
	}
	if read(t, dir, "dir/a") != "new" {
		t.Error("a volume whose object is gone must keep its contents")
	}
}

func TestOptionalAppearsAndDisappears(t *testing.T) { synctest.Test(t, testOptional) }

func testOptional(t *testing.T) {
	f := newVolumes(t)
	pod := podWith(volumeOf(configMapSource(true)))
	volumes, err := f.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	exists := func() bool {
		_, err := os.Stat(filepath.Join(volumes["v"].HostPath, "k"))
		return err == nil
	}
	if exists() {
		t.Error("contents of an object that is not there")
	}
	synctest.Wait()
	if _, err := f.client.CoreV1().ConfigMaps("ns").Create(t.Context(), configMapObject(map[string]string{"k": "v"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.settle(t, pod); err != nil || !exists() {
		t.Errorf("after it appeared: %v", err)
	}
	if err := f.client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.settle(t, pod); err != nil || exists() {
		t.Errorf("after it disappeared: %v", err)
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hostPath := func(path string, kind v1.HostPathType) v1.VolumeSource {
		return v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}
	}
	missing := filepath.Join(dir, "missing")
	for _, test := range []struct {
		name   string
		source v1.VolumeSource
		want   string
	}{
		{"configMap", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "gone"}, DefaultMode: new(int32(0o644))}},
			`configmap "gone" not found`},
		{"secret", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "gone", DefaultMode: new(int32(0o644))}}, `secret "gone" not found`},
		{"key", configMapSource(false, v1.KeyToPath{Key: "gone", Path: "p"}), "configmap references non-existent config key: gone"},
		{"projected", v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: new(int32(0o644)), Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "gone"}}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "gone"}}},
			{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{}},
		}}}, `[configmap "gone" not found, secret "gone" not found, unsupported projected volume source: clusterTrustBundle]`},
		{"not a directory", hostPath(file, v1.HostPathDirectory), "hostPath type check failed: " + file + " is not a directory, it's a File"},
		{"not a file", hostPath(dir, v1.HostPathFileOrCreate), "hostPath type check failed: " + dir + " is not a file, it's a Directory"},
		{"no socket", hostPath(missing, v1.HostPathSocket), "hostPath type check failed, " + missing + " is not a socket file, unable to determine its type: path \"" + missing + "\" does not exist"},
		{"steps back", hostPath("/tmp/../etc", v1.HostPathUnset), "invalid HostPath `/tmp/../etc`: must not contain '..'"},
		{"huge pages", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}, `unsupported storage medium "HugePages-2Mi"`},
		{"claim", v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}, "unsupported volume source: persistentVolumeClaim"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var objects []runtime.Object // the fake knows no field selectors: what is not asked for must not be there
			if test.source.ConfigMap != nil && test.source.ConfigMap.Name == "x" {
				objects = append(objects, configMapObject(nil))
			}
			f := newVolumes(t, objects...)
			_, err := f.Setup(t.Context(), podWith(volumeOf(test.source)))
			var failure *SetupError
			if !errors.As(err, &failure) || failure.Volume != "v" || failure.Err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestHostPathIsMade(t *testing.T) {
	f := newVolumes(t)
	dir := t.TempDir()
	for path, kind := range map[string]v1.HostPathType{"d/e": v1.HostPathDirectoryOrCreate, "f": v1.HostPathFileOrCreate} {
		path = filepath.Join(dir, path)
		for range 2 {
			volumes, err := f.Setup(t.Context(), podWith(volumeOf(v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}})))
			if err != nil || volumes["v"].HostPath != path || volumes["v"].ReadOnly || volumes["v"].SELinuxRelabel {
				t.Errorf("%s: %+v, %v", kind, volumes["v"], err)
			}
		}
		if got := mode(t, path).IsDir(); got != (kind == v1.HostPathDirectoryOrCreate) {
			t.Errorf("%s: is a directory: %v", kind, got)
		}
	}
}

func TestEmptyDirKeepsWhatTheContainerMade(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	f := newVolumes(t)
	pod := podWith(volumeOf(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}))
	volumes, err := f.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	dir := volumes["v"].HostPath
	if got := mode(t, dir).Perm(); got != 0o777 {
		t.Errorf("mode = %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Setup(t.Context(), pod); err != nil || mode(t, dir).Perm() != 0o700 || mode(t, dir, "f") != 0o600 {
		t.Errorf("second Setup: %v, mode %v", err, mode(t, dir))
	}
	for range 2 {
		if err := f.Teardown(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(f.podDir(pod.UID)); !os.IsNotExist(err) {
		t.Errorf("after Teardown: %v", err)
	}
	if err := f.Teardown(t.Context(), "../x"); err == nil {
		t.Error("Teardown took a UID that leads out")
	}
}

func TestImage(t *testing.T) {
	f := newVolumes(t)
	volumes, err := f.Setup(t.Context(), podWith(volumeOf(v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "data:1", PullPolicy: v1.PullNever}})))
	if v := volumes["v"]; err != nil || v.Image.GetImage() != "data:1" || !v.ReadOnly || v.PullPolicy != v1.PullNever {
		t.Errorf("volume = %+v, %v", v, err)
	}
}

func TestMemorySize(t *testing.T) {
	limited := func(limits ...string) *v1.Pod {
		pod := &v1.Pod{}
		for _, limit := range limits {
			var c v1.Container
			if limit != "" {
				c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(limit)}
				c.Resources.Requests = c.Resources.Limits
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		return pod
	}
	for _, test := range []struct {
		name, volume string
		pod          *v1.Pod
		want         int64
	}{
		{"node", "", limited(""), 64 << 20},
		{"volume", "1Mi", limited(""), 1 << 20},
		{"volume larger than node", "1Gi", limited(""), 64 << 20},
		{"pod", "", limited("2Mi", "3Mi"), 5 << 20},
		{"pod and volume", "1Mi", limited("2Mi"), 1 << 20},
		{"one container without limit", "", limited("2Mi", ""), 64 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := &v1.EmptyDirVolumeSource{}
			if test.volume != "" {
				source.SizeLimit = new(resource.MustParse(test.volume))
			}
			if got := memorySize(v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}, source, test.pod); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestPodFiles(t *testing.T) {
	f := newVolumes(t)
	for _, content := range []string{"first, longer", "second"} {
		path, err := f.WriteHosts("uid-1", []byte(content))
		if err != nil || read(t, path) != content || mode(t, path) != 0o644 || !strings.HasSuffix(path, "/uid-1/etc-hosts") {
			t.Errorf("hosts file %s: %v", path, err)
		}
	}
	path, err := f.TerminationLog("uid-1", "c", 3)
	if err != nil || mode(t, path) != 0o666 || !strings.HasSuffix(path, "/uid-1/containers/c/00000003") {
		t.Errorf("termination log %s: %v", path, err)
	}
}
