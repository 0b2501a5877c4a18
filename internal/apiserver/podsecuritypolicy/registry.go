// Package podsecuritypolicy stores PodSecurityPolicies: validation, printing and registry are those of Kubernetes 1.24, the
// last release that had them. Whether Pods comply is for the admission plugin of the same name to judge.
package podsecuritypolicy

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/printers"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// Resource is what the registry serves.
var Resource = policy.Resource("podsecuritypolicies")

// StorageMediaType is how policies are written to etcd: their types have no protobuf form.
const StorageMediaType = runtime.ContentTypeJSON

// REST is the registry of policies.
type REST struct{ *genericregistry.Store }

// NewREST opens the registry.
func NewREST(options generic.RESTOptionsGetter) (*REST, error) {
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &v1beta1.PodSecurityPolicy{} },
		NewListFunc:               func() runtime.Object { return &v1beta1.PodSecurityPolicyList{} },
		DefaultQualifiedResource:  Resource,
		SingularQualifiedResource: schema.GroupResource{Group: Resource.Group, Resource: "podsecuritypolicy"},
		CreateStrategy:            strategy{legacyscheme.Scheme, names.SimpleNameGenerator},
		UpdateStrategy:            strategy{legacyscheme.Scheme, names.SimpleNameGenerator},
		DeleteStrategy:            strategy{legacyscheme.Scheme, names.SimpleNameGenerator},
		TableConvertor:            printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(addColumns)},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options}); err != nil {
		return nil, err
	}
	return &REST{store}, nil
}

// ShortNames are what kubectl takes for the resource's name.
func (*REST) ShortNames() []string { return []string{"psp"} }

// Policies are those that the watch cache has: reading them costs no round trip to etcd, so that each Pod may. They are the
// cache's and may not be changed. Errors are the API's own, which a client knows whether to retry.
func (r *REST) Policies(ctx context.Context) ([]v1beta1.PodSecurityPolicy, error) {
	list, err := r.List(ctx, &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return list.(*v1beta1.PodSecurityPolicyList).Items, nil
}

type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

func (strategy) NamespaceScoped() bool                                   { return false }
func (strategy) AllowCreateOnUpdate(context.Context) bool                { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool           { return true }
func (strategy) Canonicalize(runtime.Object)                             {}
func (strategy) PrepareForCreate(context.Context, runtime.Object)        {}
func (strategy) PrepareForUpdate(_ context.Context, _, _ runtime.Object) {}

func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return Validate(obj.(*v1beta1.PodSecurityPolicy))
}

func (strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return ValidateUpdate(obj.(*v1beta1.PodSecurityPolicy), old.(*v1beta1.PodSecurityPolicy))
}

func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (strategy) WarningsOnUpdate(_ context.Context, _, _ runtime.Object) []string { return nil }
