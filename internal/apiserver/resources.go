package apiserver

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install" // a group's scheme must be installed for each group of the table
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
	leasestore "k8s.io/kubernetes/pkg/registry/coordination/lease/storage"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	quotastore "k8s.io/kubernetes/pkg/registry/core/resourcequota/storage"
	runtimeclassstore "k8s.io/kubernetes/pkg/registry/node/runtimeclass/storage"
	pdbstore "k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget/storage"
	priorityclassstore "k8s.io/kubernetes/pkg/registry/scheduling/priorityclass/storage"

	"peapod.dev/peapod/internal/apiserver/auth"
	pspv1beta1 "peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// eventTTL is how long an Event is kept (kube-apiserver --event-ttl).
const eventTTL = time.Hour

// row is one resource with its subresources.
type row struct {
	version schema.GroupVersion
	// names are the resource and its subresources, as in discovery.
	names []string
	// open returns the storage of each name, in order.
	open func(*registries) ([]rest.Storage, error)
}

// resources is everything that is served. The order of groups is the one in which clients resolve short names, hence
// upstream's. Within a group, a row comes after the rows whose storage it needs.
func resources() []row {
	core, authn, authz := corev1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	return []row{
		{core, names("namespaces", "status", "finalize"), func(r *registries) ([]rest.Storage, error) {
			ns, status, finalize, err := namespacestore.NewREST(r.options)
			return []rest.Storage{ns, status, finalize}, err
		}},
		{core, names("nodes", "status", "proxy"), (*registries).openNodes},
		{core, names("pods", "status", "binding", "eviction", "log", "exec", "attach", "portforward", "proxy",
			"ephemeralcontainers", "resize"), (*registries).openPods},
		{core, names("bindings"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{r.pods.LegacyBinding}, nil
		}},
		{core, names("services"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{newServices(r.address, metav1.Now())}, nil
		}},
		{core, names("podtemplates"), one(podtemplatestore.NewREST)},
		{core, names("configmaps"), one(configmapstore.NewREST)},
		{core, names("secrets"), (*registries).openSecrets},
		{core, names("serviceaccounts", "token"), (*registries).openServiceAccounts},
		{core, names("limitranges"), one(limitrangestore.NewREST)},
		{core, names("resourcequotas", "status"), func(r *registries) ([]rest.Storage, error) {
			quota, status, err := quotastore.NewREST(r.options)
			return []rest.Storage{quota, status}, err
		}},
		{core, names("events"), one(newEvents)},

		{authn, names("tokenreviews"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{tokenreview.NewREST(r.authenticate, []string{auth.Issuer})}, nil
		}},
		{authn, names("selfsubjectreviews"), func(*registries) ([]rest.Storage, error) {
			return []rest.Storage{selfsubjectreview.NewREST()}, nil
		}},

		{authz, names("subjectaccessreviews"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{subjectaccessreview.NewREST(r.authorize, legacyscheme.Scheme)}, nil
		}},
		{authz, names("selfsubjectaccessreviews"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{selfsubjectaccessreview.NewREST(r.authorize, legacyscheme.Scheme)}, nil
		}},
		{authz, names("localsubjectaccessreviews"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{localsubjectaccessreview.NewREST(r.authorize, legacyscheme.Scheme)}, nil
		}},
		{authz, names("selfsubjectrulesreviews"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{selfsubjectrulesreview.NewREST(r.rules)}, nil
		}},

		{coordinationv1.SchemeGroupVersion, names("leases"), one(leasestore.NewREST)},

		{nodev1.SchemeGroupVersion, names("runtimeclasses"), one(runtimeclassstore.NewREST)},

		{policyv1.SchemeGroupVersion, names("poddisruptionbudgets", "status"), func(r *registries) ([]rest.Storage, error) {
			pdb, status, err := pdbstore.NewREST(r.options)
			return []rest.Storage{pdb, status}, err
		}},
		{pspv1beta1.SchemeGroupVersion, names("podsecuritypolicies"), func(r *registries) ([]rest.Storage, error) {
			return []rest.Storage{r.policies}, nil
		}},

		{rbacv1.SchemeGroupVersion, []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"}, (*registries).openRBAC},

		{schedulingv1.SchemeGroupVersion, names("priorityclasses"), one(priorityclassstore.NewREST)},

		{eventsv1.SchemeGroupVersion, names("events"), one(newEvents)},
	}
}

func names(resource string, subresources ...string) []string {
	all := []string{resource}
	for _, s := range subresources {
		all = append(all, resource+"/"+s)
	}
	return all
}

// one adapts the constructor of a registry that needs nothing else and has no subresources.
func one[S rest.Storage](open func(generic.RESTOptionsGetter) (S, error)) func(*registries) ([]rest.Storage, error) {
	return func(r *registries) ([]rest.Storage, error) {
		s, err := open(r.options)
		return []rest.Storage{s}, err
	}
}

func newEvents(options generic.RESTOptionsGetter) (*eventstore.REST, error) {
	return eventstore.NewREST(options, uint64(eventTTL.Seconds()))
}
