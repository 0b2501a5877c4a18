// Package auth decides who sends a request, and what they may do.
package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"peapod.dev/peapod/internal/apiserver/inprocess"
)

// Issuer is the default of kubeadm, and the audience of the API server itself.
const Issuer = "https://kubernetes.default.svc"

// Tokens issues and verifies service account tokens.
type Tokens struct {
	serviceaccount.TokenGenerator
	Keys serviceaccount.PublicKeysGetter
}

// NewTokens signs with key.
func NewTokens(key *ecdsa.PrivateKey) (*Tokens, error) {
	generator, err := serviceaccount.JWTTokenGenerator(Issuer, key)
	if err != nil {
		return nil, err
	}
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{&key.PublicKey})
	if err != nil {
		return nil, err
	}
	return &Tokens{generator, keys}, nil
}

// NewAuthenticator accepts, in this order, callers in this process, client certificates of clients, and service account
// tokens whose objects still exist. A request without credentials is anonymous; one with bad credentials is refused.
func NewAuthenticator(clients *x509.CertPool, tokens *Tokens, client kubernetes.Interface, f informers.SharedInformerFactory) authenticator.Request {
	core := f.Core().V1()
	getter := &tokenGetter{
		client:   client,
		accounts: core.ServiceAccounts().Lister(),
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
	}
	verify := requestx509.DefaultVerifyOptions()
	verify.Roots = clients
	jwt := serviceaccount.JWTTokenAuthenticator([]string{Issuer}, tokens.Keys, authenticator.Audiences{Issuer}, serviceaccount.NewValidator(getter))

	known := union.New(
		inprocess.Authenticator(),
		requestx509.New(verify, requestx509.CommonNameUserConversion),
		bearertoken.New(jwt),
		websocket.NewProtocolAuthenticator(jwt),
	)
	return union.NewFailOnError(group.NewAuthenticatedGroupAdder(known), anonymous.NewAuthenticator(nil))
}

// tokenGetter finds the objects that a token is bound to. A lister that has not yet seen an object falls back to the
// server: a token may be used right after the object is created.
type tokenGetter struct {
	client   kubernetes.Interface
	accounts corev1listers.ServiceAccountLister
	pods     corev1listers.PodLister
	nodes    corev1listers.NodeLister
}

func (g *tokenGetter) GetServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := g.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	return g.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g *tokenGetter) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := g.pods.Pods(namespace).Get(name); err == nil {
		return pod, nil
	}
	return g.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g *tokenGetter) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return g.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g *tokenGetter) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	if node, err := g.nodes.Get(name); err == nil {
		return node, nil
	}
	return g.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

func (g *tokenGetter) GetValidatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return nil, apierrors.NewNotFound(admissionregistrationv1.Resource("validatingwebhookconfigurations"), name)
}

func (g *tokenGetter) GetMutatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return nil, apierrors.NewNotFound(admissionregistrationv1.Resource("mutatingwebhookconfigurations"), name)
}
