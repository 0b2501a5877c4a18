// Package informer makes the shared informers by which the API server reads its own objects.
//
// Invariant: a resource that this API server does not serve looks as one of which no object exists: its informer is
// synced and its lister is empty. Upstream's plugins want such informers unconditionally, and a real one would retry a
// list that answers 404 for as long as the server runs.
package informer

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core"
	corev1informers "k8s.io/client-go/informers/core/v1"
	storageinformers "k8s.io/client-go/informers/storage"
	storagev1informers "k8s.io/client-go/informers/storage/v1"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	storagev1listers "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

// NewFactory returns informers that never resync and forget managed fields, which nobody in this process reads.
func NewFactory(client kubernetes.Interface) informers.SharedInformerFactory {
	return factory{informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))}
}

func trim(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

type factory struct {
	informers.SharedInformerFactory
}

func (f factory) Core() coreinformers.Interface { return core{f.SharedInformerFactory.Core()} }

func (f factory) Storage() storageinformers.Interface {
	return storage{f.SharedInformerFactory.Storage()}
}

type core struct{ coreinformers.Interface }

func (g core) V1() corev1informers.Interface { return coreV1{g.Interface.V1()} }

type coreV1 struct{ corev1informers.Interface }

func (coreV1) PersistentVolumes() corev1informers.TypedPersistentVolumeInformer { return volumes{} }
func (coreV1) PersistentVolumeClaims() corev1informers.TypedPersistentVolumeClaimInformer {
	return claims{}
}

type storage struct{ storageinformers.Interface }

func (g storage) V1() storagev1informers.Interface { return storageV1{g.Interface.V1()} }

type storageV1 struct{ storagev1informers.Interface }

func (storageV1) CSIDrivers() storagev1informers.TypedCSIDriverInformer { return drivers{} }
func (storageV1) VolumeAttachments() storagev1informers.TypedVolumeAttachmentInformer {
	return attachments{}
}

// The embedded interfaces are nil: nobody asks for the typed form of these informers.
type (
	volumes struct {
		corev1informers.TypedPersistentVolumeInformer
	}
	claims struct {
		corev1informers.TypedPersistentVolumeClaimInformer
	}
	drivers struct {
		storagev1informers.TypedCSIDriverInformer
	}
	attachments struct {
		storagev1informers.TypedVolumeAttachmentInformer
	}
)

func (volumes) Informer() cache.SharedIndexInformer     { return absent{} }
func (claims) Informer() cache.SharedIndexInformer      { return absent{} }
func (drivers) Informer() cache.SharedIndexInformer     { return absent{} }
func (attachments) Informer() cache.SharedIndexInformer { return absent{} }

func (volumes) Lister() corev1listers.PersistentVolumeLister {
	return corev1listers.NewPersistentVolumeLister(empty())
}

func (claims) Lister() corev1listers.PersistentVolumeClaimLister {
	return corev1listers.NewPersistentVolumeClaimLister(empty())
}

func (drivers) Lister() storagev1listers.CSIDriverLister {
	return storagev1listers.NewCSIDriverLister(empty())
}

func (attachments) Lister() storagev1listers.VolumeAttachmentLister {
	return storagev1listers.NewVolumeAttachmentLister(empty())
}

func empty() cache.Indexer {
	return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

// absent is the informer of a resource without objects: whoever adds a handler has seen everything already.
type absent struct{ cache.SharedIndexInformer }

func (absent) HasSynced() bool { return true }

func (absent) AddEventHandler(cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return registration{}, nil
}

type registration struct {
	cache.ResourceEventHandlerRegistration
}

func (registration) HasSynced() bool { return true }
