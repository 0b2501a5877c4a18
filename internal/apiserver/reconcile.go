package apiserver

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/kubernetes/pkg/apis/rbac"

	"golang.org/x/sync/errgroup"
)

// Upstream's reconciliation reads each object before it decides what to write. These modifiers answer the reads from one
// list, and pass the writes on.

type named interface {
	GetNamespace() string
	GetName() string
}

type listed[T named] map[string]T

func (l listed[T]) add(o T) { l[o.GetNamespace()+"/"+o.GetName()] = o }

func (l listed[T]) get(resource, namespace, name string) (T, error) {
	o, ok := l[namespace+"/"+name]
	if !ok {
		return o, apierrors.NewNotFound(rbac.Resource(resource), name)
	}
	return o, nil
}

type ruleOwners struct {
	listed[reconciliation.RuleOwner]
	reconciliation.RuleOwnerModifier
}

func (m ruleOwners) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	return m.get("roles", namespace, name)
}

type roleBindings struct {
	listed[reconciliation.RoleBinding]
	reconciliation.RoleBindingModifier
}

func (m roleBindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	return m.get("rolebindings", namespace, name)
}

func reconcileRole(g *errgroup.Group, role reconciliation.RuleOwner, m ruleOwners) {
	g.Go(func() error {
		o := reconciliation.ReconcileRoleOptions{Role: role, Confirm: true, Client: m}
		_, err := o.Run()
		return unlessLate("cluster role", role.GetName(), err)
	})
}

func reconcileBinding(g *errgroup.Group, binding reconciliation.RoleBinding, m roleBindings) {
	g.Go(func() error {
		o := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Confirm: true, Client: m}
		_, err := o.Run()
		return unlessLate("cluster role binding", binding.GetName(), err)
	})
}

// unlessLate forgives that somebody else wrote the object since it was listed; the next start looks again.
func unlessLate(kind, name string, err error) error {
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("cannot reconcile %s %q: %w", kind, name, err)
}
