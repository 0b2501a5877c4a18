package containerconfig

import (
	"context"
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"

	"peapod.dev/peapod/internal/agent/hosts"
)

// mounts lists the volume mounts in their order, then the hosts file unless the container mounts something there
// itself, then the file for the termination message.
func (n *Node) mounts(ctx context.Context, in *Container, env []kubecontainer.EnvVar) ([]*runtimeapi.Mount, error) {
	container := in.Container
	if len(container.VolumeDevices) > 0 {
		return nil, fmt.Errorf("cannot find volume %q to pass into container %q", container.VolumeDevices[0].Name, container.Name)
	}
	var mounts []*runtimeapi.Mount
	mountHosts := in.HostsPath != ""
	for i := range container.VolumeMounts {
		mount := &container.VolumeMounts[i]
		mountHosts = mountHosts && mount.MountPath != hosts.ContainerPath
		result, err := n.volumeMount(ctx, in, i, mount, env)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, result)
	}
	if mountHosts {
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: hosts.ContainerPath, HostPath: in.HostsPath, SelinuxRelabel: n.SELinux})
	}
	if container.TerminationMessagePath != "" && in.TerminationLogPath != "" {
		mounts = append(mounts, &runtimeapi.Mount{
			ContainerPath:  absolute(container.TerminationMessagePath),
			HostPath:       in.TerminationLogPath,
			SelinuxRelabel: n.SELinux,
		})
	}
	return mounts, nil
}

func (n *Node) volumeMount(ctx context.Context, in *Container, index int, mount *v1.VolumeMount, env []kubecontainer.EnvVar) (*runtimeapi.Mount, error) {
	subPath := mount.SubPath
	if mount.SubPathExpr != "" {
		var err error
		if subPath, err = kubecontainer.ExpandContainerVolumeMounts(*mount, env); err != nil {
			return nil, err
		}
	}
	propagation, err := mountPropagation(mount.MountPropagation)
	if err != nil {
		return nil, err
	}
	recursive, err := n.recursiveReadOnly(mount)
	if err != nil {
		return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
	}
	source, err := in.Sources.Mount(ctx, index, mount, subPath)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.Mount{
		ContainerPath:     absolute(mount.MountPath),
		HostPath:          source.HostPath,
		Image:             source.Image,
		ImageSubPath:      source.ImageSubPath,
		Readonly:          mount.ReadOnly || source.Readonly,
		RecursiveReadOnly: recursive,
		SelinuxRelabel:    source.SelinuxRelabel && n.SELinux,
		Propagation:       propagation,
		MountOptions:      mount.BindMountOptions,
	}, nil
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/", path)
}

func mountPropagation(mode *v1.MountPropagationMode) (runtimeapi.MountPropagation, error) {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	}
	switch *mode {
	case v1.MountPropagationNone:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, fmt.Errorf("invalid MountPropagation mode: %q", *mode)
}

func (n *Node) recursiveReadOnly(mount *v1.VolumeMount) (bool, error) {
	if mount.RecursiveReadOnly == nil || *mount.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !mount.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", mount.Name)
	}
	if p := mount.MountPropagation; p != nil && *p != v1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", mount.Name, *p)
	}
	switch mode := *mount.RecursiveReadOnly; mode {
	case v1.RecursiveReadOnlyIfPossible:
		return n.RecursiveReadOnly, nil
	case v1.RecursiveReadOnlyEnabled:
		if !n.RecursiveReadOnly {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", mount.Name)
		}
		return true, nil
	default:
		return false, fmt.Errorf("unknown recursive read-only mode %q", mode)
	}
}
