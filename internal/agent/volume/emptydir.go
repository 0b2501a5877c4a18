package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
	v1qos "k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	upstream "k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

const emptyDirKind = "empty-dir"

func (v *Volumes) emptyDir(pod *v1.Pod, spec *v1.Volume) (Volume, error) {
	source := spec.EmptyDir
	dir := v.volumeDir(pod.UID, emptyDirKind, spec.Name)
	volume := Volume{HostPath: dir, SELinuxRelabel: true}
	var err error
	switch medium := source.Medium; {
	case medium == v1.StorageMediumDefault:
		// What a container made of its folder must survive; only one that a crash left half made is made again.
		ready := v.readyMark(pod.UID, spec.Name)
		if volumeutil.IsReady(ready) && isDir(dir) {
			return volume, nil
		}
		if err = makeDir(dir, source.Mode); err == nil {
			setOwnership(dir, pod, false)
			volumeutil.SetReady(ready)
		}
	case medium == v1.StorageMediumMemory:
		var mounted bool
		if mounted, err = v.tmpfs(pod, source, dir); mounted {
			setOwnership(dir, pod, false)
		}
	case v1helper.IsHugePageMedium(medium):
		err = fmt.Errorf("unsupported storage medium %q", medium)
	default:
		err = fmt.Errorf("unknown storage medium %q", medium)
	}
	return volume, err
}

func (v *Volumes) readyMark(pod types.UID, volume string) string {
	return filepath.Join(v.podDir(pod), "plugins", "kubernetes.io~"+emptyDirKind, volume)
}

// makeDir makes a folder that everyone may use, or with the given Unix mode, whatever the umask.
func makeDir(dir string, mode *int32) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if mode == nil {
		return os.Chmod(dir, 0o777)
	}
	return unix.Chmod(dir, uint32(*mode))
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// tmpfs mounts a tmpfs on dir unless one is there; mounted tells whether it did so now.
func (v *Volumes) tmpfs(pod *v1.Pod, source *v1.EmptyDirVolumeSource, dir string) (mounted bool, err error) {
	if is, err := isMountPoint(dir); err != nil || is {
		return false, err
	}
	if err := makeDir(dir, nil); err != nil {
		return false, err
	}
	allocatable, err := v.allocatable()
	if err != nil {
		return false, err
	}
	var options []string
	if size := memorySize(allocatable, source, pod); size > 0 {
		options = append(options, "size="+strconv.FormatInt(size, 10))
	}
	if source.Mode != nil {
		options = append(options, fmt.Sprintf("mode=%o", *source.Mode))
	}
	if !v.swapsTmpfs.Load() {
		err := unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(append(options, "noswap"), ","))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return false, fmt.Errorf("cannot mount tmpfs: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(options, ",")); err != nil {
		return false, fmt.Errorf("cannot mount tmpfs: %w", err)
	}
	v.swapsTmpfs.Store(true)
	return true, nil
}

// isMountPoint tells whether dir is the root of a file system of its own.
func isMountPoint(dir string) (bool, error) {
	var self, parent unix.Stat_t
	switch err := unix.Lstat(dir, &self); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &parent); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return self.Dev != parent.Dev, nil
}

// memorySize is the least of the volume's limit, the Pod's memory limit and the node's allocatable memory, in bytes
// (calculateEmptyDirMemorySize in pkg/volume/emptydir). 0 means no limit is known.
func memorySize(allocatable v1.ResourceList, source *v1.EmptyDirVolumeSource, pod *v1.Pod) int64 {
	size := allocatable.Memory().Value()
	lower := func(limit int64) {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	lower(podMemoryLimit(pod))
	if source.SizeLimit != nil {
		lower(source.SizeLimit.Value())
	}
	return size
}

// podMemoryLimit is what the Pod's cgroup is limited to, or 0 if a container has no limit (ResourceConfigForPod in
// pkg/kubelet/cm).
func podMemoryLimit(pod *v1.Pod) int64 {
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	limit := limits.Memory().Value()
	if v1qos.GetPodQOS(pod) == v1.PodQOSBestEffort {
		return 0
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) && !pod.Spec.Resources.Limits.Memory().IsZero() {
		return limit
	}
	for container := range podutil.ContainerIter(&pod.Spec, podutil.InitContainers|podutil.Containers) {
		if container.Resources.Limits.Memory().IsZero() {
			return 0
		}
	}
	return limit
}

// setOwnership gives everything below dir to the Pod's fsGroup. As upstream, it does what it can and tells nobody.
func setOwnership(dir string, pod *v1.Pod, readOnly bool) {
	_ = upstream.NewVolumeOwnership(attributes{readOnly: readOnly}, dir, fsGroup(pod), nil, nil).ChangePermissions()
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// attributes is the part of upstream's Mounter that a change of ownership looks at.
type attributes struct {
	upstream.Mounter
	readOnly bool
}

func (a attributes) GetAttributes() upstream.Attributes {
	return upstream.Attributes{ReadOnly: a.readOnly}
}
