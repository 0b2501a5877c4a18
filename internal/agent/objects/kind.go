package objects

import (
	"context"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

type object interface {
	runtime.Object
	metav1.Object
}

// kind is how objects of one kind are read; resource is the word that upstream's error texts use.
type kind struct {
	resource string
	example  object
	get      func(ctx context.Context, client kubernetes.Interface, namespace, name string) (object, error)
	list     func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (runtime.Object, error)
	watch    func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (watch.Interface, error)
}

var configMaps = &kind{
	resource: "configmap",
	example:  &v1.ConfigMap{},
	get: func(ctx context.Context, client kubernetes.Interface, namespace, name string) (object, error) {
		return client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	},
	list: func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().ConfigMaps(namespace).List(ctx, options)
	},
	watch: func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (watch.Interface, error) {
		return client.CoreV1().ConfigMaps(namespace).Watch(ctx, options)
	},
}

var secrets = &kind{
	resource: "secret",
	example:  &v1.Secret{},
	get: func(ctx context.Context, client kubernetes.Interface, namespace, name string) (object, error) {
		return client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	},
	list: func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Secrets(namespace).List(ctx, options)
	},
	watch: func(ctx context.Context, client kubernetes.Interface, namespace string, options metav1.ListOptions) (watch.Interface, error) {
		return client.CoreV1().Secrets(namespace).Watch(ctx, options)
	},
}

func immutable(obj object) bool {
	switch o := obj.(type) {
	case *v1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *v1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

// listWatch selects the one object by name: the Node authorizer refuses anything wider.
func (k *kind) listWatch(client kubernetes.Interface, namespace, name string) cache.ListerWatcher {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return plainListWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return k.list(ctx, client, namespace, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return k.watch(ctx, client, namespace, options)
		},
	}}
}

// plainListWatch keeps the reflector from streaming the initial list, which has to wait until the server's cache is
// up to date; follow's own read has been, so any list will do.
type plainListWatch struct{ *cache.ListWatch }

func (plainListWatch) IsWatchListSemanticsUnSupported() bool { return true }

// store is the cache.ReflectorStore of one item.
type store struct {
	cache *Cache
	key   key
	item  *item
}

func (s *store) Add(obj any) error {
	o := obj.(object)
	s.cache.observe(s.item, o, o.GetResourceVersion())
	return nil
}

func (s *store) Update(obj any) error { return s.Add(obj) }

func (s *store) Delete(obj any) error {
	s.cache.observe(s.item, nil, obj.(object).GetResourceVersion())
	return nil
}

func (s *store) Replace(list []any, version string) error {
	if len(list) == 0 {
		s.cache.observe(s.item, nil, version)
		return nil
	}
	return s.Add(list[0])
}

func (s *store) Resync() error { return nil }
