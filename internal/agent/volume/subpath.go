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
	"k8s.io/kubernetes/pkg/volume/validation"
)

const subPathsDir = "volume-subpaths"

// ResolveSubPath returns a path on the host that shows subPath of a volume, for the container's volume mount of the
// given index; folders that are missing are made with the volume's own mode. The path is a bind mount of the file that
// was opened strictly beneath the volume, so that nothing a container does to the volume, then or later, leads out of
// it. It is taken down with the Pod.
//
// The error texts are upstream's and tell nothing of the host's files (makeMounts in pkg/kubelet/kubelet_pods.go).
func (v *Volumes) ResolveSubPath(pod *v1.Pod, container string, index int, mount *v1.VolumeMount, hostPath, subPath string) (string, error) {
	if filepath.IsAbs(subPath) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", subPath)
	}
	if err := validation.ValidatePathNoBacksteps(subPath); err != nil {
		return "", fmt.Errorf("unable to provision SubPath `%s`: %w", subPath, err)
	}
	subPath = filepath.Clean(subPath)

	file, err := openBeneath(hostPath, subPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirsBeneath(hostPath, subPath); err != nil {
			v.config.Log.Warn("cannot make subPath", "pod", pod.Name, "container", container, "volume", mount.Name, "error", err)
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", mount.Name, container)
		}
		file, err = openBeneath(hostPath, subPath)
	}
	if err == nil {
		defer file.Close()
		target := filepath.Join(v.podDir(pod.UID), subPathsDir, mount.Name, container, strconv.Itoa(index))
		if err = bind(file, target); err == nil {
			return target, nil
		}
	}
	v.config.Log.Warn("cannot prepare subPath", "pod", pod.Name, "container", container, "volume", mount.Name, "error", err)
	return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", mount.Name, container)
}

// openBeneath opens a path without touching what is there (O_PATH). It follows links, but never out of base.
func openBeneath(base, path string) (*os.File, error) {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(root)
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 32 {
		fd, err := unix.Openat2(root, path, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(base, path)), nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR): // EAGAIN: something was renamed meanwhile
			return nil, &fs.PathError{Op: "openat2", Path: filepath.Join(base, path), Err: err}
		}
	}
	return nil, &fs.PathError{Op: "openat2", Path: filepath.Join(base, path), Err: unix.EAGAIN}
}

func makeDirsBeneath(base, path string) error {
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	var prefix string
	for name := range strings.SplitSeq(path, "/") {
		prefix = filepath.Join(prefix, name)
		switch err := root.Mkdir(prefix, info.Mode().Perm()); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default: // the umask must not count, and a fsGroup's bit is not among those that Mkdir takes
			if err := root.Chmod(prefix, info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSetuid|fs.ModeSticky)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bind mounts the open file on target. A mount of another file, which an update of the volume or a crash has left, is
// replaced.
func bind(file *os.File, target string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if old, err := os.Lstat(target); err == nil && os.SameFile(old, info) {
		return nil // only a mount can make them the same
	}
	if err := detach(target); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o750)
	} else {
		err = makeFile(target, 0o640)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(file.Fd())), target, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// detach takes down all mounts stacked on path; that there is none is success.
func detach(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return &fs.PathError{Op: "umount", Path: path, Err: err}
		}
	}
}
