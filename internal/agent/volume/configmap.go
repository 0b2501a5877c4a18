package volume

import (
	"context"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/volume/configmap"
)

func (v *Volumes) configMap(ctx context.Context, namespace string, source *v1.ConfigMapVolumeSource) (content, error) {
	optional := source.Optional != nil && *source.Optional
	object, err := v.GetConfigMap(ctx, namespace, source.Name)
	if apierrors.IsNotFound(err) && optional {
		object, err = &v1.ConfigMap{}, nil
	}
	if err != nil {
		return nil, err
	}
	return configmap.MakePayload(source.Items, object, source.DefaultMode, source.DefaultUser, optional)
}
