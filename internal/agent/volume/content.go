package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// content is the files of a volume by their path in it.
type content map[string]volumeutil.FileProjection

// showsContent tells whether the volume shows API objects, tokens or the Pod itself.
func showsContent(spec *v1.Volume) bool {
	return spec.ConfigMap != nil || spec.Secret != nil || spec.DownwardAPI != nil || spec.Projected != nil
}

func (v *Volumes) content(ctx context.Context, pod *v1.Pod, spec *v1.Volume) (content, error) {
	switch {
	case spec.ConfigMap != nil:
		return v.configMap(ctx, pod.Namespace, spec.ConfigMap)
	case spec.Secret != nil:
		return v.secret(ctx, pod.Namespace, spec.Secret)
	case spec.DownwardAPI != nil:
		return v.downwardAPI(pod, spec.DownwardAPI.Items, spec.DownwardAPI.DefaultMode, spec.DownwardAPI.DefaultUser)
	default:
		return v.projected(ctx, pod, spec.Projected)
	}
}

// contentKind names the folder and tells whether the files may be kept on disk, as ConfigMaps are upstream.
func contentKind(spec *v1.Volume) (kind string, memory bool) {
	switch {
	case spec.ConfigMap != nil:
		return "configmap", false
	case spec.Secret != nil:
		return "secret", true
	case spec.DownwardAPI != nil:
		return "downward-api", true
	default:
		return "projected", true
	}
}

// writeContent makes the volume show exactly these files; containers see either all old ones or all new ones.
func (v *Volumes) writeContent(pod *v1.Pod, spec *v1.Volume, files content) (Volume, error) {
	kind, memory := contentKind(spec)
	dir := v.volumeDir(pod.UID, kind, spec.Name)
	if memory {
		if _, err := v.tmpfs(pod, &v1.EmptyDirVolumeSource{}, dir); err != nil {
			return Volume{}, err
		}
	} else if err := makeDir(dir, nil); err != nil {
		return Volume{}, err
	}
	// The volume is read-only in the container, so what is mounted inside of it needs its mount points now.
	if err := volumeutil.MakeNestedMountpoints(spec.Name, dir, *pod); err != nil {
		return Volume{}, err
	}
	// The writer does not expect the link that a crash in the middle of it leaves.
	if err := os.Remove(filepath.Join(dir, "..data_tmp")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Volume{}, err
	}
	writer, err := volumeutil.NewAtomicWriter(dir, fmt.Sprintf("pod %s/%s volume %s", pod.Namespace, pod.Name, spec.Name))
	if err != nil {
		return Volume{}, err
	}
	own := func(string) error {
		setOwnership(dir, pod, true)
		return nil
	}
	if err := writer.Write(files, own); err != nil {
		return Volume{}, err
	}
	return Volume{HostPath: dir, ReadOnly: true, SELinuxRelabel: true}, nil
}
