package volume

import (
	"context"
	"errors"
	"fmt"

	securejoin "github.com/cyphar/filepath-securejoin"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	envutil "k8s.io/kubernetes/pkg/kubelet/util/env"
)

// Sources is what one container of a Pod takes from volumes and objects; it serves as containerconfig.Sources.
type Sources struct {
	*Volumes
	Pod       *v1.Pod
	Container string
	Ready     map[string]Volume // what Setup returned
}

// Mount returns the host's side of a volume mount: path or image, whether it is read-only, and whether it may be
// relabelled. subPath is expanded already.
func (s Sources) Mount(_ context.Context, index int, mount *v1.VolumeMount, subPath string) (*runtimeapi.Mount, error) {
	volume, ok := s.Ready[mount.Name]
	if !ok {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", mount.Name, s.Container)
	}
	result := &runtimeapi.Mount{Readonly: volume.ReadOnly, SelinuxRelabel: volume.SELinuxRelabel}
	if volume.Image != nil {
		result.Image, result.ImageSubPath = volume.Image, subPath
		return result, nil
	}
	result.HostPath = volume.HostPath
	if subPath != "" {
		var err error
		if result.HostPath, err = s.ResolveSubPath(s.Pod, s.Container, index, mount, volume.HostPath, subPath); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// EnvFile returns a variable's value from a file in a volume, "" if the file does not have it.
func (s Sources) EnvFile(_ context.Context, ref *v1.FileKeySelector) (string, error) {
	volume, ok := s.Ready[ref.VolumeName]
	if !ok || volume.HostPath == "" {
		return "", fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	path, err := securejoin.SecureJoin(volume.HostPath, ref.Path)
	if err != nil {
		return "", err
	}
	value, err := envutil.ParseEnv(path, ref.Key)
	if err != nil {
		s.config.Log.Warn("cannot parse env file", "pod", s.Pod.Name, "container", s.Container, "error", err)
		return "", errors.New("couldn't parse env file")
	}
	return value, nil
}
