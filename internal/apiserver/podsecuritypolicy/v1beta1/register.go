package v1beta1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install" // the group that these types join
)

// SchemeGroupVersion is that of the types.
var SchemeGroupVersion = schema.GroupVersion{Group: policy.GroupName, Version: "v1beta1"}

// AddToScheme adds the types, whose group the scheme has already, and their defaults.
func AddToScheme(s *runtime.Scheme) error {
	for _, gv := range []schema.GroupVersion{policy.SchemeGroupVersion, SchemeGroupVersion} {
		s.AddKnownTypes(gv, &PodSecurityPolicy{}, &PodSecurityPolicyList{})
	}
	s.AddTypeDefaultingFunc(&PodSecurityPolicy{}, func(o any) { SetDefaults(o.(*PodSecurityPolicy)) })
	s.AddTypeDefaultingFunc(&PodSecurityPolicyList{}, func(o any) {
		for i := range o.(*PodSecurityPolicyList).Items {
			SetDefaults(&o.(*PodSecurityPolicyList).Items[i])
		}
	})
	return nil
}

func init() { utilruntime.Must(AddToScheme(legacyscheme.Scheme)) }

// SetDefaults lets a policy that is older than the field allowPrivilegeEscalation mean what it meant then.
func SetDefaults(p *PodSecurityPolicy) {
	if p.Spec.AllowPrivilegeEscalation == nil {
		yes := true
		p.Spec.AllowPrivilegeEscalation = &yes
	}
}
