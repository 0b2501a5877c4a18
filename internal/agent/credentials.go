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
// Registry"). missing names the secrets that cannot be had; they are passed over, as the kubelet does. The
// machine's own auth files are the engine's matter.
func (a *Agent) credentials(ctx context.Context, pod *v1.Pod, image string) (found []*runtimeapi.AuthConfig, missing []string, err error) {
	var held []v1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := a.volumes.GetSecret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		held = append(held, *secret)
	}
	keyring, err := secrets.MakeDockerKeyring(held, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return nil, missing, fmt.Errorf("cannot read the image pull secrets of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	tracked, _ := keyring.Lookup(image)
	found = make([]*runtimeapi.AuthConfig, len(tracked))
	for i, c := range tracked {
		found[i] = &runtimeapi.AuthConfig{
			Username: c.Username, Password: c.Password, Auth: c.Auth,
			ServerAddress: c.ServerAddress, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		}
	}
	return found, missing, nil
}
