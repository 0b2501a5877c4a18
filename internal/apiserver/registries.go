package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	policyv1client "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/cluster/ports"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	clusterrolepolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/policybased"
	clusterrolestore "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	clusterrolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/policybased"
	clusterrolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	rolepolicy "k8s.io/kubernetes/pkg/registry/rbac/role/policybased"
	rolestore "k8s.io/kubernetes/pkg/registry/rbac/role/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	rolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/policybased"
	rolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/storage"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"peapod.dev/peapod/internal/apiserver/auth"
	"peapod.dev/peapod/internal/apiserver/pki"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
)

// kubeletTimeout bounds requests to a node that are not streams (kube-apiserver --kubelet-timeout).
const kubeletTimeout = 5 * time.Second

// registries opens the rows of the table. The fields below the blank line are filled in by earlier rows for later ones.
type registries struct {
	options      generic.RESTOptionsGetter
	authenticate authenticator.Request
	authorize    authorizer.Authorizer
	rules        authorizer.RuleResolver
	tokens       *auth.Tokens
	budgets      policyv1client.PodDisruptionBudgetsGetter
	pki          *pki.PKI
	policies     *podsecuritypolicy.REST
	address      string // host:port by which others reach this server

	nodes   *nodestore.NodeStorage
	pods    podstore.PodStorage
	secrets *secretstore.REST
}

// groups opens every row, in order, and returns the API groups in the order in which they first appear.
func (r *registries) groups(rows []row) ([]*genericapiserver.APIGroupInfo, error) {
	var groups []*genericapiserver.APIGroupInfo
	for _, row := range rows {
		stores, err := row.open(r)
		if err != nil {
			return nil, fmt.Errorf("cannot open registry of %s: %w", row.names[0], err)
		}
		i := slices.IndexFunc(groups, func(g *genericapiserver.APIGroupInfo) bool {
			return g.PrioritizedVersions[0].Group == row.version.Group
		})
		if i < 0 {
			g := genericapiserver.NewDefaultAPIGroupInfo(row.version.Group, legacyscheme.Scheme, legacyscheme.ParameterCodec, legacyscheme.Codecs)
			// The scheme knows every version that upstream has; only those of the table are served.
			g.PrioritizedVersions = nil
			i, groups = len(groups), append(groups, &g)
		}
		if !slices.Contains(groups[i].PrioritizedVersions, row.version) {
			groups[i].PrioritizedVersions = append(groups[i].PrioritizedVersions, row.version)
			groups[i].VersionedResourcesStorageMap[row.version.Version] = map[string]rest.Storage{}
		}
		for j, name := range row.names {
			groups[i].VersionedResourcesStorageMap[row.version.Version][name] = stores[j]
		}
	}
	return groups, nil
}

func (r *registries) openNodes() (_ []rest.Storage, err error) {
	kubelet := kubeletclient.KubeletClientConfig{
		Port: ports.KubeletPort,
		PreferredAddressTypes: []string{
			string(corev1.NodeInternalIP), string(corev1.NodeHostName), string(corev1.NodeExternalIP),
		},
		TLSClientConfig: kubeletclient.KubeletTLSConfig{
			CertFile: r.pki.KubeletClientCertFile(),
			KeyFile:  r.pki.KubeletClientKeyFile(),
			CAFile:   r.pki.CAFile(),
		},
		HTTPTimeout: kubeletTimeout,
	}
	if r.nodes, err = nodestore.NewStorage(r.options, kubelet, proxyTransport()); err != nil {
		return nil, err
	}
	return []rest.Storage{r.nodes.Node, r.nodes.Status, r.nodes.Proxy}, nil
}

func (r *registries) openPods() (_ []rest.Storage, err error) {
	r.pods, err = podstore.NewStorage(r.options, r.nodes.KubeletConnectionInfo, proxyTransport(), r.budgets, r.authorize)
	if err != nil {
		return nil, err
	}
	p := r.pods
	return []rest.Storage{p.Pod, p.Status, p.Binding, p.Eviction, p.Log, p.Exec, p.Attach, p.PortForward, p.Proxy,
		p.EphemeralContainers, p.Resize}, nil
}

// proxyTransport reaches Pods for the proxy subresource. A Pod's certificate, if any, is its own business (as upstream).
func proxyTransport() *http.Transport {
	return utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}})
}

func (r *registries) openSecrets() (_ []rest.Storage, err error) {
	r.secrets, err = secretstore.NewREST(r.options)
	return []rest.Storage{r.secrets}, err
}

func (r *registries) openServiceAccounts() ([]rest.Storage, error) {
	const noLimit = 0 // --service-account-max-token-expiration is not set
	const extend = true
	sa, err := serviceaccountstore.NewREST(r.options, r.tokens, authenticator.Audiences{auth.Issuer}, r.authorize, noLimit,
		r.pods.Pod.Store, r.secrets.Store, r.nodes.Node.Store,
		unserved[*admissionregistrationv1.ValidatingWebhookConfiguration]{"validatingwebhookconfigurations"},
		unserved[*admissionregistrationv1.MutatingWebhookConfiguration]{"mutatingwebhookconfigurations"},
		extend, serviceaccount.ExpirationExtensionSeconds*time.Second)
	if err != nil {
		return nil, err
	}
	return []rest.Storage{sa, sa.Token}, nil
}

// unserved is a kind of object that a token can be bound to upstream, and that does not exist here.
type unserved[T any] struct{ resource string }

func (u unserved[T]) Get(_ context.Context, name string, _ metav1.GetOptions) (T, error) {
	var none T
	return none, apierrors.NewNotFound(admissionregistrationv1.Resource(u.resource), name)
}

// openRBAC wraps the plain registries so that nobody grants what they do not have themselves.
func (r *registries) openRBAC() ([]rest.Storage, error) {
	roles, err := rolestore.NewREST(r.options)
	if err != nil {
		return nil, err
	}
	roleBindings, err := rolebindingstore.NewREST(r.options)
	if err != nil {
		return nil, err
	}
	clusterRoles, err := clusterrolestore.NewREST(r.options)
	if err != nil {
		return nil, err
	}
	clusterRoleBindings, err := clusterrolebindingstore.NewREST(r.options)
	if err != nil {
		return nil, err
	}
	rules := rbacvalidation.NewDefaultRuleResolver(
		role.AuthorizerAdapter{Registry: role.NewRegistry(roles)},
		rolebinding.AuthorizerAdapter{Registry: rolebinding.NewRegistry(roleBindings)},
		clusterrole.AuthorizerAdapter{Registry: clusterrole.NewRegistry(clusterRoles)},
		clusterrolebinding.AuthorizerAdapter{Registry: clusterrolebinding.NewRegistry(clusterRoleBindings)},
	)
	return []rest.Storage{
		rolepolicy.NewStorage(roles, r.authorize, rules),
		rolebindingpolicy.NewStorage(roleBindings, r.authorize, rules),
		clusterrolepolicy.NewStorage(clusterRoles, r.authorize, rules),
		clusterrolebindingpolicy.NewStorage(clusterRoleBindings, r.authorize, rules),
	}, nil
}
