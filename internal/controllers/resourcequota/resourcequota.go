// Package resourcequota keeps the usage in the status of ResourceQuotas true.
//
// The API server's admission adds to the usage when something is made. This controller counts anew when a quota appears or changes and
// when something goes, with upstream's evaluators. Objects other than Pods are watched only once a quota counts them, and then only
// their metadata.
package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Resources lists the namespaced resources that the API server serves, in their preferred versions.
type Resources func() ([]*metav1.APIResourceList, error)

// Controller counts. Make one with New, then Run it.
type Controller struct {
	client kubernetes.Interface
	quotas corelisters.ResourceQuotaLister
	usage  *usage
	loop   *reconcile.Loop[types.NamespacedName]
}

// New makes the controller.
func New(client kubernetes.Interface, meta metadata.Interface, resources Resources, shared informers.SharedInformerFactory, log *slog.Logger) *Controller {
	quotas, pods := shared.Core().V1().ResourceQuotas(), shared.Core().V1().Pods()
	c := &Controller{client: client, quotas: quotas.Lister()}
	c.usage = newUsage(meta, resources, pods, c.recount)
	c.loop = reconcile.New("resourcequota", log, c.reconcile)
	reconcile.On(c.loop, quotas.Informer(), func(was, is *v1.ResourceQuota) {
		if is != nil && (was == nil || !quota.Equals(was.Spec.Hard, is.Spec.Hard)) {
			c.loop.Add(types.NamespacedName{Namespace: is.Namespace, Name: is.Name})
		}
	})
	frees := quotainstall.DefaultUpdateFilter()
	reconcile.On(c.loop, pods.Informer(), func(was, is *v1.Pod) {
		switch {
		case is == nil:
			c.recount(was.Namespace)
		case was != nil && frees(v1.SchemeGroupVersion.WithResource("pods"), was, is):
			c.recount(is.Namespace)
		}
	})
	return c
}

// Run counts until ctx ends.
func (c *Controller) Run(ctx context.Context, workers int) error {
	defer c.usage.wait() // for the watches that counting has started
	return c.loop.Run(ctx, workers)
}

// recount has all quotas of a namespace counted.
func (c *Controller) recount(namespace string) {
	quotas, _ := c.quotas.ResourceQuotas(namespace).List(labels.Everything()) // a cache's List has no errors
	for _, q := range quotas {
		c.loop.Add(types.NamespacedName{Namespace: q.Namespace, Name: q.Name})
	}
}

func (c *Controller) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	q, err := c.quotas.ResourceQuotas(name.Namespace).Get(name.Name)
	if err != nil {
		return 0, nil
	}
	registry, err := c.usage.registry(ctx, q)
	if err != nil {
		return 0, err
	}
	// What cannot be counted keeps the figure that admission has given it.
	counted, countErr := quota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, registry, q.Spec.ScopeSelector)
	used := quota.Add(v1.ResourceList{}, q.Status.Used)
	for resource, amount := range counted {
		used[resource] = amount
	}
	used = quota.Mask(used, quota.ResourceNames(q.Spec.Hard))
	if !equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) || q.Status.Used == nil || !quota.Equals(used, q.Status.Used) {
		q = q.DeepCopy()
		q.Status = v1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
		_, err = c.client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("cannot update the quota's usage: %w", err)
		}
	}
	return 0, countErr
}
