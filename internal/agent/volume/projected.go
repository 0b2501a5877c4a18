package volume

import (
	"context"
	"errors"
	"maps"

	v1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// projected gathers the files of all sources; where paths meet, the later source wins.
func (v *Volumes) projected(ctx context.Context, pod *v1.Pod, volume *v1.ProjectedVolumeSource) (content, error) {
	if volume.DefaultMode == nil {
		return nil, errors.New("no defaultMode used, not even the default value for it")
	}
	all := content{}
	var failures []error
	for i := range volume.Sources {
		files, err := v.projection(ctx, pod, volume, &volume.Sources[i])
		if err != nil {
			failures = append(failures, err)
			continue
		}
		maps.Copy(all, files)
	}
	// Upstream joins the texts as an aggregate does: [a, b].
	return all, utilerrors.NewAggregate(failures)
}

func (v *Volumes) projection(ctx context.Context, pod *v1.Pod, volume *v1.ProjectedVolumeSource, source *v1.VolumeProjection) (content, error) {
	switch {
	case source.ConfigMap != nil:
		return v.configMap(ctx, pod.Namespace, &v1.ConfigMapVolumeSource{
			LocalObjectReference: source.ConfigMap.LocalObjectReference,
			Items:                source.ConfigMap.Items,
			Optional:             source.ConfigMap.Optional,
			DefaultMode:          volume.DefaultMode,
			DefaultUser:          volume.DefaultUser,
		})
	case source.Secret != nil:
		return v.secret(ctx, pod.Namespace, &v1.SecretVolumeSource{
			SecretName:  source.Secret.Name,
			Items:       source.Secret.Items,
			Optional:    source.Secret.Optional,
			DefaultMode: volume.DefaultMode,
			DefaultUser: volume.DefaultUser,
		})
	case source.DownwardAPI != nil:
		return v.downwardAPI(pod, source.DownwardAPI.Items, volume.DefaultMode, volume.DefaultUser)
	case source.ServiceAccountToken != nil:
		return v.serviceAccountToken(ctx, pod, volume, source.ServiceAccountToken)
	case source.ClusterTrustBundle != nil:
		return nil, errors.New("unsupported projected volume source: clusterTrustBundle")
	case source.PodCertificate != nil:
		return nil, errors.New("unsupported projected volume source: podCertificate")
	}
	return nil, nil
}

// serviceAccountToken gives the token to the one user that all containers run as, if there is one, and lets nobody
// else read it; a fsGroup widens that to its members when ownership is set.
func (v *Volumes) serviceAccountToken(ctx context.Context, pod *v1.Pod, volume *v1.ProjectedVolumeSource, source *v1.ServiceAccountTokenProjection) (content, error) {
	token, err := v.objects.Token(ctx, pod, source)
	if err != nil {
		return nil, err
	}
	user := volumeutil.FsUserFrom(pod)
	if volume.DefaultUser != nil {
		user = volume.DefaultUser
	}
	if source.User != nil {
		user = source.User
	}
	mode := *volume.DefaultMode
	if user != nil || fsGroup(pod) != nil {
		mode = 0o600
	}
	return content{source.Path: {Data: []byte(token), Mode: mode, FsUser: user}}, nil
}
