package ocispec

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts lists the container's filesystems, parents before children: the kernel's own, the sandbox' files, the image's
// volumes, the CRI mounts. A CRI mount replaces the default one at its path, and one at /dev all defaults below it too.
func mounts(spec *specs.Spec, in *Input) error {
	var user []specs.Mount
	taken := map[string]bool{}
	for _, m := range in.Container.GetMounts() {
		mount, err := bind(spec, in, m)
		if err != nil {
			return fmt.Errorf("cannot mount at %q: %w", m.GetContainerPath(), err)
		}
		user = append(user, mount)
		taken[mount.Destination] = true
	}
	all := slices.DeleteFunc(slices.Concat(kernelMounts(in), sandboxMounts(in), volumes(in)), func(m specs.Mount) bool {
		return taken[m.Destination] || taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/")
	})
	all = append(all, user...)
	slices.SortStableFunc(all, func(a, b specs.Mount) int { return cmp.Compare(depth(a), depth(b)) })
	spec.Mounts = all
	return nil
}

func depth(m specs.Mount) int {
	if m.Destination == "/" {
		return 0
	}
	return strings.Count(m.Destination, "/")
}

func kernelMounts(in *Input) []specs.Mount {
	rights := "ro"
	if in.privileged() {
		rights = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{
			"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
		}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", rights}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", rights}},
	}
}

func sandboxMounts(in *Input) []specs.Mount {
	rights := "rw"
	if in.security().GetReadonlyRootfs() {
		rights = "ro"
	}
	shm := in.Shm
	if in.namespaceOption().GetIpc() == runtimeapi.NamespaceMode_NODE {
		shm = "/dev/shm"
	}
	var all []specs.Mount
	for _, f := range []struct{ source, destination, rights string }{
		{in.ResolvConf, "/etc/resolv.conf", rights},
		{in.HostnameFile, "/etc/hostname", rights},
		{shm, "/dev/shm", "rw"},
	} {
		if f.source != "" {
			all = append(all, specs.Mount{
				Destination: f.destination, Type: "bind", Source: f.source, Options: []string{"rbind", "rprivate", f.rights},
			})
		}
	}
	return all
}

func volumes(in *Input) []specs.Mount {
	var all []specs.Mount
	for _, path := range slices.Sorted(maps.Keys(in.ImageVolumes)) {
		all = append(all, specs.Mount{
			Destination: filepath.Join("/", path), Type: "bind", Source: in.ImageVolumes[path],
			Options: []string{"rbind", "rprivate", "rw"},
		})
	}
	return all
}

// bind translates one CRI mount. Propagation to or from the host also needs a root that lets it through.
func bind(spec *specs.Spec, in *Input, m *runtimeapi.Mount) (specs.Mount, error) {
	if len(m.GetUidMappings())+len(m.GetGidMappings()) > 0 {
		return specs.Mount{}, errors.New("ID mapped mounts are not supported")
	}
	out := specs.Mount{Destination: filepath.Join("/", m.GetContainerPath()), Type: "bind", Source: m.GetHostPath()}
	readonly := m.GetReadonly()
	if m.GetImage() != nil {
		if m.GetHostPath() != "" {
			return specs.Mount{}, errors.New("both an image and a host path are given")
		}
		out.Source, readonly = in.ImageMounts[m.GetContainerPath()], true
	}
	if out.Source == "" {
		return specs.Mount{}, errors.New("no host path")
	}
	propagation := "rprivate"
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		propagation = "rslave"
		if spec.Linux.RootfsPropagation == "" {
			spec.Linux.RootfsPropagation = "rslave"
		}
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		propagation = "rshared"
		spec.Linux.RootfsPropagation = "rshared"
	}
	rights := "rw"
	switch {
	case m.GetRecursiveReadOnly() && (!readonly || propagation != "rprivate"):
		return specs.Mount{}, errors.New("recursive read-only needs a read-only mount with private propagation")
	case m.GetRecursiveReadOnly():
		rights = "rro"
	case readonly:
		rights = "ro"
	}
	out.Options = append([]string{"rbind", propagation, rights}, m.GetMountOptions()...)
	return out, nil
}
