package apiserver

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

func TestAggregatedRoles(t *testing.T) {
	roles := map[string]rbacv1.ClusterRole{}
	for _, r := range aggregated(bootstrappolicy.ClusterRoles()) {
		roles[r.Name] = r
	}
	can := func(role, verb, resource string) bool {
		return slices.ContainsFunc(roles[role].Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, verb) && slices.Contains(r.Resources, resource)
		})
	}
	for _, tt := range []struct {
		verb, resource    string
		view, edit, admin bool
	}{
		{"get", "pods", true, true, true},
		{"create", "pods", false, true, true},
		{"get", "secrets", false, true, true},
		{"create", "rolebindings", false, false, true},
	} {
		for role, want := range map[string]bool{"view": tt.view, "edit": tt.edit, "admin": tt.admin} {
			if got := can(role, tt.verb, tt.resource); got != want {
				t.Errorf("%s %s %s: %v", role, tt.verb, tt.resource, got)
			}
		}
	}
}
