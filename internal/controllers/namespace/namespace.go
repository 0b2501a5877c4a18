// Package namespace empties namespaces that are being deleted and then lets them go.
//
// What is deleted, in which order and what the namespace's conditions say is upstream's (k8s.io/kubernetes/pkg/controller/namespace/
// deletion): Pods first, everything else when the last one is gone. Upstream waits five seconds before it begins and then for half of
// the longest grace period; here the end of the last Pod is an event and the rest follows at once.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/kubernetes/pkg/controller/namespace/deletion"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Resources lists the namespaced resources that the API server serves, in their preferred versions.
type Resources func() ([]*metav1.APIResourceList, error)

// New makes the controller; its keys are namespaces.
func New(client kubernetes.Interface, meta metadata.Interface, resources Resources, shared informers.SharedInformerFactory, log *slog.Logger) *reconcile.Loop[string] {
	namespaces, pods := shared.Core().V1().Namespaces(), shared.Core().V1().Pods()
	c := &controller{client: client, meta: meta, resources: resources}
	terminating := func(name string) bool {
		ns, err := namespaces.Lister().Get(name)
		return err == nil && ns.DeletionTimestamp != nil
	}
	loop := reconcile.New("namespace", log, func(ctx context.Context, name string) (time.Duration, error) {
		if !terminating(name) {
			return 0, nil
		}
		return c.empty(ctx, name)
	})
	reconcile.On(loop, namespaces.Informer(), func(_, ns *v1.Namespace) {
		if ns != nil && ns.DeletionTimestamp != nil {
			loop.Add(ns.Name)
		}
	})
	reconcile.On(loop, pods.Informer(), func(was, is *v1.Pod) {
		if is == nil && terminating(was.Namespace) {
			loop.Add(was.Namespace)
		}
	})
	return loop
}

type controller struct {
	client    kubernetes.Interface
	meta      metadata.Interface
	resources Resources

	mu      sync.Mutex
	deleter deletion.NamespacedResourcesDeleterInterface // nil until the resources are known
}

func (c *controller) empty(ctx context.Context, name string) (time.Duration, error) {
	deleter, err := c.ready(ctx)
	if err != nil {
		return 0, err
	}
	err = deleter.Delete(ctx, name)
	var remaining *deletion.ResourcesRemainingError
	if errors.As(err, &remaining) {
		// The end of a Pod is an event. Of other things that wait for their finalizers there is none.
		return time.Duration(remaining.Estimate/2+1) * time.Second, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot empty the namespace: %w", err)
	}
	return 0, nil
}

// ready makes the deleter when the API server has said what it serves, which never changes while it runs.
func (c *controller) ready(ctx context.Context) (deletion.NamespacedResourcesDeleterInterface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleter != nil {
		return c.deleter, nil
	}
	list, err := c.resources()
	if err == nil && len(list) == 0 {
		err = errors.New("it serves nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot discover what the API server serves: %w", err)
	}
	known := func() ([]*metav1.APIResourceList, error) { return list, nil }
	c.deleter = deletion.NewNamespacedResourcesDeleter(ctx, c.client.CoreV1().Namespaces(), c.meta, c.client.CoreV1(), known, v1.FinalizerKubernetes)
	return c.deleter, nil
}
