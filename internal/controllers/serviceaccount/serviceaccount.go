// Package serviceaccount gives every active namespace a service account "default", and gives it back when it is deleted.
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// New makes the controller; its keys are namespaces.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) *reconcile.Loop[string] {
	namespaces, accounts := shared.Core().V1().Namespaces(), shared.Core().V1().ServiceAccounts()
	loop := reconcile.New("serviceaccount", log, func(ctx context.Context, name string) (time.Duration, error) {
		ns, err := namespaces.Lister().Get(name)
		if err != nil || ns.Status.Phase != v1.NamespaceActive {
			return 0, nil // gone or going: nothing can be made in it
		}
		if _, err := accounts.Lister().ServiceAccounts(name).Get("default"); err == nil {
			return 0, nil
		}
		_, err = client.CoreV1().ServiceAccounts(name).Create(ctx,
			&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}}, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			return 0, nil
		}
		return 0, fmt.Errorf("cannot create the default service account: %w", err)
	})
	reconcile.On(loop, namespaces.Informer(), func(_, ns *v1.Namespace) {
		if ns != nil {
			loop.Add(ns.Name)
		}
	})
	reconcile.On(loop, accounts.Informer(), func(was, is *v1.ServiceAccount) {
		if is == nil && was.Name == "default" {
			loop.Add(was.Namespace)
		}
	})
	return loop
}
