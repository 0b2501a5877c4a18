package volume

import (
	v1 "k8s.io/api/core/v1"
	upstream "k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
)

func (v *Volumes) downwardAPI(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode *int32, user *int64) (content, error) {
	return downwardapi.CollectData(items, pod, volumeHost{volumes: v}, mode, user)
}

// volumeHost is the part of upstream's VolumeHost that the downward API looks at.
type volumeHost struct {
	upstream.VolumeHost
	volumes *Volumes
}

func (h volumeHost) GetNodeAllocatable() (v1.ResourceList, error) { return h.volumes.allocatable() }
