package volume

import (
	"context"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/volume/secret"
)

func (v *Volumes) secret(ctx context.Context, namespace string, source *v1.SecretVolumeSource) (content, error) {
	optional := source.Optional != nil && *source.Optional
	object, err := v.GetSecret(ctx, namespace, source.SecretName)
	if apierrors.IsNotFound(err) && optional {
		object, err = &v1.Secret{}, nil
	}
	if err != nil {
		return nil, err
	}
	return secret.MakePayload(source.Items, object, source.DefaultMode, source.DefaultUser, optional)
}
