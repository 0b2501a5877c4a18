package agent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
)

// credentials finds what the Pod's imagePullSecrets hold for the image ("Pull an Image from a Private
// Registry"). A secret that cannot be had is reported by an event and passed over, as the kubelet does; the
// machine's own auth files are the engine's matter.
func (a *Agent) credentials(ctx context.Context, pod *v1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	var found []v1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := a.volumes.GetSecret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			a.events.Eventf(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		found = append(found, *secret)
	}
	keyring, err := secrets.MakeDockerKeyring(found, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return nil, fmt.Errorf("cannot read the image pull secrets of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	tracked, _ := keyring.Lookup(image)
	out := make([]*runtimeapi.AuthConfig, len(tracked))
	for i, c := range tracked {
		out[i] = &runtimeapi.AuthConfig{
			Username: c.Username, Password: c.Password, Auth: c.Auth,
			ServerAddress: c.ServerAddress, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		}
	}
	return out, nil
}
