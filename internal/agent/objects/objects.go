// Package objects keeps the ConfigMaps and Secrets that this node's Pods refer to, and their service account tokens.
//
// The Node authorizer lets a node read only single objects that its Pods name, so each object has a read and a watch
// of its own, shared by all Pods that refer to it and ended with the last of them, or as soon as the object is
// immutable. Invariants: what is kept never goes back to an older version; an object is reported absent only after
// the API server itself said so; Changed tells of each later change once. All methods are safe for concurrent use.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Config is what a Cache needs.
type Config struct {
	Client kubernetes.Interface
	// Changed is called when something that the Pods refer to has changed, appeared or disappeared, or a token is due
	// for renewal. It must not block. Nil means that nobody listens.
	Changed func(pods []types.UID)
	Log     *slog.Logger
}

// Cache is the node's view of the objects that its Pods refer to.
type Cache struct {
	*Tokens
	config Config

	mu     sync.Mutex
	closed bool
	items  map[key]*item
	pods   map[types.UID]map[key]struct{}
	wg     sync.WaitGroup
}

type key struct {
	kind            *kind
	namespace, name string
}

// item is an object that at least one Pod refers to. All but synced is guarded by Cache.mu.
type item struct {
	pods    map[types.UID]struct{}
	synced  chan struct{} // closed after the API server's first answer
	cancel  context.CancelFunc
	object  object // nil: there is none
	version string // newest resource version known
	err     error  // why there is no answer yet
}

// New returns an empty Cache. Close ends its watches.
func New(config Config) *Cache {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Changed == nil {
		config.Changed = func([]types.UID) {}
	}
	return &Cache{
		config: config,
		Tokens: newTokens(config),
		items:  map[key]*item{},
		pods:   map[types.UID]map[key]struct{}{},
	}
}

// Close ends all watches and renewals and waits for them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	for _, it := range c.items {
		it.cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
	c.Tokens.close()
}

// Register begins to follow what pod refers to and lets go of what it no longer refers to. It is idempotent and
// returns at once.
func (c *Cache) Register(pod *v1.Pod) {
	wanted := map[key]struct{}{}
	podutil.VisitPodConfigmapNames(pod, func(name string) bool {
		wanted[key{configMaps, pod.Namespace, name}] = struct{}{}
		return true
	})
	podutil.VisitPodSecretNames(pod, func(name string) bool {
		wanted[key{secrets, pod.Namespace, name}] = struct{}{}
		return true
	})
	c.refer(pod.UID, wanted)
}

// Unregister lets go of everything that the Pod referred to, its tokens included. It is idempotent.
func (c *Cache) Unregister(pod types.UID) {
	c.refer(pod, nil)
	c.Tokens.forget(pod)
}

func (c *Cache) refer(pod types.UID, wanted map[key]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for k := range c.pods[pod] {
		if _, ok := wanted[k]; ok {
			continue
		}
		it := c.items[k]
		if delete(it.pods, pod); len(it.pods) == 0 {
			it.cancel()
			delete(c.items, k)
		}
	}
	for k := range wanted {
		it := c.items[k]
		if it == nil {
			ctx, cancel := context.WithCancel(context.Background())
			it = &item{pods: map[types.UID]struct{}{}, synced: make(chan struct{}), cancel: cancel}
			c.items[k] = it
			c.wg.Go(func() { c.follow(ctx, k, it) })
		}
		it.pods[pod] = struct{}{}
	}
	if len(wanted) == 0 {
		delete(c.pods, pod)
	} else {
		c.pods[pod] = wanted
	}
}

// ConfigMap returns a ConfigMap that a registered Pod refers to. It waits for the API server's first answer as long as
// ctx lasts. An absent one gives an error for which apierrors.IsNotFound holds. The result must not be changed.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	obj, err := c.get(ctx, key{configMaps, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.ConfigMap), nil
}

// Secret is like ConfigMap, for a Secret.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	obj, err := c.get(ctx, key{secrets, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.Secret), nil
}

// get's error texts are the kubelet's (pkg/kubelet/util/manager/watch_based_manager.go).
func (c *Cache) get(ctx context.Context, k key) (object, error) {
	c.mu.Lock()
	it := c.items[k]
	c.mu.Unlock()
	if it == nil {
		return nil, fmt.Errorf("object %q/%q not registered", k.namespace, k.name)
	}
	select {
	case <-it.synced:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case it.object != nil:
		return it.object, nil
	case it.err != nil:
		return nil, fmt.Errorf("failed to sync %s cache: %w", k.kind.resource, it.err)
	}
	select {
	case <-it.synced:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: k.kind.resource}, k.name)
	default:
		return nil, fmt.Errorf("failed to sync %s cache: %w", k.kind.resource, context.Cause(ctx))
	}
}

// follow reads the object and then watches it until ctx ends. The read comes first because it is answered by the store
// itself, at once and never with stale data, and because right after a Pod is bound the Node authorizer may not know
// yet that this node may read the object: that is tried again sooner than a reflector would.
func (c *Cache) follow(ctx context.Context, k key, it *item) {
	backoff := wait.Backoff{Duration: time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 100, Cap: 2 * time.Second}
	for {
		obj, err := k.kind.get(ctx, c.config.Client, k.namespace, k.name)
		if err == nil || apierrors.IsNotFound(err) {
			if err != nil {
				obj = nil
			}
			c.firstAnswer(it, obj)
			break
		}
		c.mu.Lock()
		it.err = err
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
	if ctx.Err() != nil {
		return
	}
	cache.NewReflectorWithOptions(k.kind.listWatch(c.config.Client, k.namespace, k.name), k.kind.example,
		&store{c, k, it}, cache.ReflectorOptions{
			Name:            fmt.Sprintf("%s %s/%s", k.kind.resource, k.namespace, k.name),
			MinWatchTimeout: 30 * time.Minute,
		}).RunWithContext(ctx)
}

func (c *Cache) firstAnswer(it *item, obj object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it.err = nil
	if obj != nil {
		it.object, it.version = obj, obj.GetResourceVersion()
		if immutable(obj) {
			it.cancel()
		}
	}
	close(it.synced)
}

// observe takes over what a watch saw, obj being nil if the object is gone, and tells the Pods if it is news.
func (c *Cache) observe(it *item, obj object, version string) {
	c.mu.Lock()
	if it.version != "" {
		order, err := resourceversion.CompareResourceVersion(version, it.version)
		if err == nil && (order < 0 || order == 0 && obj != nil) {
			c.mu.Unlock()
			return // a list served from a cache that lags behind the first read, or nothing new
		}
	}
	news := obj != nil || it.object != nil
	it.object, it.version = obj, version
	if obj != nil && immutable(obj) {
		it.cancel()
	}
	pods := slices.Sorted(maps.Keys(it.pods))
	c.mu.Unlock()
	if news && len(pods) > 0 {
		c.config.Changed(pods)
	}
}
