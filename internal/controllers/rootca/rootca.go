// Package rootca keeps the certificate of the authority that signs the API server's certificate in every namespace, in the config map
// kube-root-ca.crt, where Pods find it.
package rootca

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

const name = rootcacertpublisher.RootCACertConfigMapName

// New makes the controller, whose keys are namespaces, and the informer it needs: one that knows only the config maps of that name.
// The caller runs both.
func New(client kubernetes.Interface, namespaces coreinformers.NamespaceInformer, ca []byte, log *slog.Logger) (*reconcile.Loop[string], cache.SharedIndexInformer) {
	informer := coreinformers.NewFilteredConfigMapInformer(client, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		})
	c := controller{client: client, namespaces: namespaces.Lister(), maps: corelisters.NewConfigMapLister(informer.GetIndexer()),
		data: map[string]string{"ca.crt": string(ca)}}
	loop := reconcile.New("rootca", log, c.reconcile)
	reconcile.On(loop, namespaces.Informer(), func(_, ns *v1.Namespace) {
		if ns != nil {
			loop.Add(ns.Name)
		}
	})
	reconcile.On(loop, informer, func(was, is *v1.ConfigMap) {
		if was != nil {
			loop.Add(was.Namespace)
		}
	})
	return loop, informer
}

type controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	data       map[string]string
}

func (c controller) reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	if ns, err := c.namespaces.Get(namespace); err != nil || ns.Status.Phase == v1.NamespaceTerminating {
		return 0, nil
	}
	err := c.publish(ctx, namespace)
	if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot publish the root certificate: %w", err)
	}
	return 0, nil
}

func (c controller) publish(ctx context.Context, namespace string) error {
	found, err := c.maps.ConfigMaps(namespace).Get(name)
	if err != nil {
		_, err := c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Annotations: map[string]string{
				rootcacertpublisher.DescriptionAnnotation: rootcacertpublisher.Description}},
			Data: c.data,
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // the watch will show it, and then it is looked at
		}
		return err
	}
	if maps.Equal(found.Data, c.data) && found.Annotations[rootcacertpublisher.DescriptionAnnotation] != "" {
		return nil
	}
	found = found.DeepCopy()
	found.Data = c.data
	metav1.SetMetaDataAnnotation(&found.ObjectMeta, rootcacertpublisher.DescriptionAnnotation, rootcacertpublisher.Description)
	_, err = c.client.CoreV1().ConfigMaps(namespace).Update(ctx, found, metav1.UpdateOptions{})
	return err
}
