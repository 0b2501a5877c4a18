package volume

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// image leaves the mount to the engine.
func (v *Volumes) image(source *v1.ImageVolumeSource) Volume {
	return Volume{
		ReadOnly:   true,
		Image:      &runtimeapi.ImageSpec{Image: source.Reference, UserSpecifiedImage: source.Reference},
		PullPolicy: source.PullPolicy,
	}
}
