package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	schedulingapiv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"golang.org/x/sync/errgroup"

	"peapod.dev/peapod/internal/apiserver/pki"
)

// bootstrapWorkers write at once, so that etcd can sync many objects to disk together.
const bootstrapWorkers = 16

// bootstrap makes what every cluster has: the system namespaces and priority classes, and upstream's roles. It looks first
// and writes only what is missing, for even a refused write would be one to the disk. It is idempotent, and safe to run in
// several servers over one etcd at a time.
func bootstrap(ctx context.Context, c kubernetes.Interface) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(bootstrapWorkers)
	if err := bootstrapNamespaces(ctx, c, g); err != nil {
		return err
	}
	if err := bootstrapPriorityClasses(ctx, c, g); err != nil {
		return err
	}
	if err := bootstrapRoles(ctx, c, g); err != nil {
		return err
	}
	return g.Wait()
}

func bootstrapNamespaces(ctx context.Context, c kubernetes.Interface, g *errgroup.Group) error {
	list, err := c.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list namespaces: %w", err)
	}
	have := map[string]bool{}
	for _, ns := range list.Items {
		have[ns.Name] = true
	}
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		if have[name] {
			continue
		}
		g.Go(func() error {
			_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return unlessExists(err)
		})
	}
	return nil
}

func bootstrapPriorityClasses(ctx context.Context, c kubernetes.Interface, g *errgroup.Group) error {
	list, err := c.SchedulingV1().PriorityClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list priority classes: %w", err)
	}
	have := map[string]bool{}
	for _, pc := range list.Items {
		have[pc.Name] = true
	}
	for _, pc := range schedulingapiv1.SystemPriorityClasses() {
		if have[pc.Name] {
			continue
		}
		g.Go(func() error {
			_, err := c.SchedulingV1().PriorityClasses().Create(ctx, pc, metav1.CreateOptions{})
			return unlessExists(err)
		})
	}
	return nil
}

func unlessExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// bootstrapRoles brings upstream's roles and bindings up to date, by upstream's rules: what an administrator added stays,
// what they removed comes back, unless the object's annotation rbac.authorization.kubernetes.io/autoupdate is "false".
// The roles of upstream's controllers, in and out of namespaces, are left out: our controllers run in this process and use
// no service account, so these would only be power lying about.
func bootstrapRoles(ctx context.Context, c kubernetes.Interface, g *errgroup.Group) error {
	r := c.RbacV1()
	clusterRoles, err := r.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list cluster roles: %w", err)
	}
	roles := listed[reconciliation.RuleOwner]{}
	for i := range clusterRoles.Items {
		roles.add(reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles.Items[i]})
	}
	for _, role := range aggregated(bootstrappolicy.ClusterRoles()) {
		reconcileRole(g, reconciliation.ClusterRoleRuleOwner{ClusterRole: &role},
			ruleOwners{roles, reconciliation.ClusterRoleModifier{Client: r.ClusterRoles()}})
	}

	clusterRoleBindings, err := r.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list cluster role bindings: %w", err)
	}
	bindings := listed[reconciliation.RoleBinding]{}
	for i := range clusterRoleBindings.Items {
		bindings.add(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterRoleBindings.Items[i]})
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), kubeletAPIAdmin()) {
		reconcileBinding(g, reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b},
			roleBindings{bindings, reconciliation.ClusterRoleBindingClientAdapter{Client: r.ClusterRoleBindings()}})
	}
	return nil
}

// kubeletAPIAdmin lets the API server use kubelets (logs, exec, …), as upstream's guides have it.
func kubeletAPIAdmin() rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "system:kubelet-api-admin"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kubelet-api-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: pki.KubeletClientUser}},
	}
}

// aggregated fills in the rules of admin, edit and view, which are made of other roles. Upstream's controller for that
// works on any role; the ones that ship are known beforehand.
func aggregated(roles []rbacv1.ClusterRole) []rbacv1.ClusterRole {
	// admin is made of edit, which is made of view.
	for range 3 {
		for i := range roles {
			rule := roles[i].AggregationRule
			if rule == nil {
				continue
			}
			roles[i].Rules = nil
			for j := range roles {
				if i != j && selects(rule, roles[j].Labels) {
					roles[i].Rules = append(roles[i].Rules, roles[j].Rules...)
				}
			}
		}
	}
	return roles
}

func selects(rule *rbacv1.AggregationRule, set map[string]string) bool {
	for i := range rule.ClusterRoleSelectors {
		s, err := metav1.LabelSelectorAsSelector(&rule.ClusterRoleSelectors[i])
		if err == nil && s.Matches(labels.Set(set)) {
			return true
		}
	}
	return false
}
