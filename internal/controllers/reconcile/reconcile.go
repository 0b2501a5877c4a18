// Package reconcile is the loop that every controller runs: events name an object by its key, the key is queued once however many
// events there were, and one call at a time brings that object to its desired state.
//
// A reconciler reads caches, not the event: it must give the same result whichever events were merged, and must do nothing when
// nothing is left to do. A failed call is repeated with a growing delay.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Delay before a failed call is repeated, doubling from first to most.
const (
	first = 5 * time.Millisecond
	most  = 30 * time.Second
)

// Func brings the object that key names to its desired state. A duration above zero asks for a call after that time even if
// nothing happens until then. An error has the call repeated.
type Func[K comparable] func(ctx context.Context, key K) (time.Duration, error)

// Loop calls a Func for keys. Make one with New, feed it with On and Add, then Run it.
type Loop[K comparable] struct {
	name  string
	f     Func[K]
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[K]
	watch []watched
}

type watched struct {
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandler
}

// New makes a loop; name is for logs.
func New[K comparable](name string, log *slog.Logger, f Func[K]) *Loop[K] {
	return &Loop[K]{name: name, f: f, log: log, queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[K](first, most))}
}

// Add queues a key. It may be called at any time, also from the Func.
func (l *Loop[K]) Add(key K) { l.queue.Add(key) }

// AddAfter queues a key after some time.
func (l *Loop[K]) AddAfter(key K, after time.Duration) { l.queue.AddAfter(key, after) }

// On has f called for each object that informer is or becomes aware of: when it appears (before is nil), changes, or goes (after is
// nil). A nil f only makes Run wait until the informer knows all objects. On must be called before Run.
func On[T any, K comparable](l *Loop[K], informer cache.SharedIndexInformer, f func(before, after *T)) {
	if f == nil {
		f = func(_, _ *T) {}
	}
	l.watch = append(l.watch, watched{informer, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f(nil, obj.(*T)) },
		UpdateFunc: func(before, after any) { f(before.(*T), after.(*T)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			f(obj.(*T), nil)
		},
	}})
}

// Run starts to listen, waits until all informers know what exists, and calls the Func from so many workers until ctx ends. It returns
// when the last call has. Somebody else runs the informers. It may be called once.
func (l *Loop[K]) Run(ctx context.Context, workers int) error {
	synced := make([]cache.DoneChecker, 0, len(l.watch))
	for _, w := range l.watch {
		registration, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("cannot start controller %s: %w", l.name, err)
		}
		defer w.informer.RemoveEventHandler(registration) //nolint:errcheck // only fails for a foreign handle
		synced = append(synced, registration.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
	return nil
}

func (l *Loop[K]) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown || ctx.Err() != nil {
		return false
	}
	defer l.queue.Done(key)
	again, err := l.f(ctx, key)
	if err != nil {
		// A conflict only means that somebody else was quicker.
		if ctx.Err() == nil && !apierrors.IsConflict(err) {
			l.log.Warn("Cannot reconcile", "controller", l.name, "key", key, "err", err)
		}
		l.queue.AddRateLimited(key)
		return true
	}
	l.queue.Forget(key)
	if again > 0 {
		l.queue.AddAfter(key, again)
	}
	return true
}
