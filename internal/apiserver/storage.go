package apiserver

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/compatibility"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
)

// etcdPrefix is kube-apiserver's default: the layout in etcd is that of any Kubernetes cluster.
const etcdPrefix = "/registry"

// served says which resources of upstream's scheme exist here.
func served(rows []row) *serverstorage.ResourceConfig {
	c := serverstorage.NewResourceConfig()
	for _, r := range rows {
		c.EnableResources(r.version.WithResource(r.names[0]))
	}
	return c
}

// restOptions tells registries where and how their objects are stored. It implements generic.RESTOptionsGetter.
type restOptions struct {
	factory *serverstorage.DefaultStorageFactory
	caches  []*cacher.Cacher
}

func newRESTOptions(t storagebackend.TransportConfig, version compatibility.EffectiveVersion, served *serverstorage.ResourceConfig) *restOptions {
	cfg := storagebackend.NewDefaultConfig(etcdPrefix, nil)
	t.TracerProvider = cfg.Transport.TracerProvider
	cfg.Transport = t
	f := serverstorage.NewDefaultStorageFactory(*cfg, runtime.ContentTypeProtobuf, legacyscheme.Codecs,
		serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(legacyscheme.Scheme, version), served,
		map[schema.GroupResource]string{corev1.Resource("nodes"): "minions"}) // upstream's one old name that is served here
	f.SetSerializer(podsecuritypolicy.Resource, podsecuritypolicy.StorageMediaType, nil)
	f.AddCohabitatingResources(corev1.Resource("events"), eventsv1.Resource("events"))
	return &restOptions{factory: f}
}

func (o *restOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	cfg, err := o.factory.NewConfig(resource, example)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	opts := generic.RESTOptions{
		StorageConfig:           cfg,
		Decorator:               o.cached,
		DeleteCollectionWorkers: 1,
		// There is no garbage collector for dependents. Were this on, a foreground or orphaning delete would wait for one
		// to remove its finalizer.
		EnableGarbageCollection: false,
		ResourcePrefix:          o.factory.ResourcePrefix(resource),
	}
	if resource.Resource == "events" { // many, short-lived and rarely watched: no cache, as upstream
		opts.Decorator = generic.UndecoratedStorage
	}
	return opts, nil
}

// cached puts a watch cache before the store. It differs from genericregistry.StorageWithCacher in remembering the cache:
// a client that comes before its cache is filled is told to retry a second later, which nobody in this process should be.
func (o *restOptions) cached(
	cfg *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	raw, destroy, err := generic.NewRawStorage(cfg, newFunc, newListFunc, prefix)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: raw, Versioner: storage.APIObjectVersioner{}, GroupResource: cfg.GroupResource,
		EventsHistoryWindow: cfg.EventsHistoryWindow, ResourcePrefix: prefix, KeyFunc: key, NewFunc: newFunc,
		NewListFunc: newListFunc, GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers, Codec: cfg.Codec,
	})
	if err != nil {
		destroy()
		return nil, nil, err
	}
	o.caches = append(o.caches, c)
	d := cacher.NewCacheDelegator(c, raw)
	return d, sync.OnceFunc(func() {
		d.Stop()
		c.Stop()
		destroy()
	}), nil
}

// waitForCaches returns when every watch cache is filled.
func (o *restOptions) waitForCaches(ctx context.Context) error {
	for _, c := range o.caches {
		if err := c.Wait(ctx); err != nil {
			return fmt.Errorf("cannot fill watch cache: %w", err)
		}
	}
	return nil
}
