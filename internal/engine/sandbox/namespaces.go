package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/osthread"
)

const (
	netFile = "net"
	ipcFile = "ipc"
	utsFile = "uts"
	pidFile = "pid"
	shmDir  = "shm"
)

// namespaceFlags are the namespaces of their own that a sandbox with these options has, by the file that pins each.
// A Pod on the host's network has the host's name too.
func namespaceFlags(o *runtimeapi.NamespaceOption) map[string]int {
	flags := map[string]int{}
	if o.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		flags[netFile], flags[utsFile] = unix.CLONE_NEWNET, unix.CLONE_NEWUTS
	}
	if o.GetIpc() != runtimeapi.NamespaceMode_NODE {
		flags[ipcFile] = unix.CLONE_NEWIPC
	}
	return flags
}

// makeNamespaces makes the namespaces and pins each by a bind mount in dir, so that they live without a process.
// The host name and the sysctls are set inside, by the same thread: /proc/sys shows each thread its own namespaces.
func makeNamespaces(dir string, flags map[string]int, hostname string, sysctls map[string]string) error {
	if err := checkSysctls(sysctls, flags); err != nil {
		return err
	}
	if len(flags) == 0 {
		return nil
	}
	return osthread.Do(func() error {
		all := 0
		for _, flag := range flags {
			all |= flag
		}
		if err := unix.Unshare(all); err != nil {
			return fmt.Errorf("cannot make namespaces: %w", err)
		}
		if _, own := flags[utsFile]; own {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("cannot set host name %q: %w", hostname, err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(sysctls)) {
			if err := setSysctl(name, sysctls[name]); err != nil {
				return err
			}
		}
		for file := range flags {
			if err := pin("/proc/thread-self/ns/"+file, filepath.Join(dir, file)); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkSysctls refuses what would change the host: a sysctl that no namespace of the sandbox has for itself.
func checkSysctls(sysctls map[string]string, flags map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		var file string
		switch key := strings.ReplaceAll(name, "/", "."); {
		case strings.HasPrefix(key, "net."):
			file = netFile
		case strings.HasPrefix(key, "kernel.shm"), strings.HasPrefix(key, "kernel.msg"), key == "kernel.sem", strings.HasPrefix(key, "fs.mqueue."):
			file = ipcFile
		default:
			return fmt.Errorf("cannot set sysctl %q: it is not namespaced", name)
		}
		if flags[file] == 0 {
			return fmt.Errorf("cannot set sysctl %q: the Pod uses the host's %s namespace", name, file)
		}
	}
	return nil
}

func setSysctl(name, value string) error {
	// As sysctl(8): dots separate, unless a slash comes first, where a dot is part of an element (net/ipv4/conf/eth0.1).
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if !filepath.IsLocal(path) {
		return fmt.Errorf("cannot set sysctl %q: invalid name", name)
	}
	f, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot set sysctl %q: this kernel has none of that name", name)
	}
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot set sysctl %q to %q: %w", name, value, err)
	}
	return nil
}

// pin keeps the namespace that source names for as long as target is mounted.
func pin(source, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot pin namespace %s: %w", filepath.Base(target), err)
	}
	return nil
}

// pinned tells whether a namespace is pinned at path.
func pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// unmountAll unmounts what is mounted at path, however often, and removes it. Idempotent.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
