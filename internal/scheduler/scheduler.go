// Package scheduler gives each Pod that has no Node the Node that suits it best, as kube-scheduler's default profile does.
//
// One lock guards the queue and the picture of the cluster, and a whole decision is made under it. So no event can fall between a
// verdict and the parking of the Pod it is about, and a decision is counted before the next one is made: Pods that arrive together
// never overcommit a Node. Everything that waits for the API server (binding, status, events) happens outside the lock, concurrently,
// and for one Pod in order.
//
// Nothing polls. A Pod that fits nowhere is tried again when it fits a Node that an event was about: the Node's labels, taints or
// capacity changed, or a Pod left it. After an error a Pod is tried again with a growing delay.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
	"peapod.dev/peapod/internal/scheduler/score"
)

// inFlight is the greatest number of requests to the API server at a time.
const inFlight = 64

// Config is what a Scheduler needs.
type Config struct {
	// Client must not be rate limited (QPS < 0): a burst of Pods would wait in the client.
	Client kubernetes.Interface
	// Informers watch Pods and Nodes; Run starts them if nobody has.
	Informers informers.SharedInformerFactory
	// Recorder writes events; nil means one of our own, as "default-scheduler".
	Recorder events.EventRecorder
	// Log may be nil.
	Log *slog.Logger
}

// Scheduler places the Pods of spec.schedulerName "default-scheduler".
type Scheduler struct {
	cfg     Config
	log     *slog.Logger
	filters filter.Rules
	scores  score.Rules
	wake    chan struct{} // has room for one: something may have become active

	mu    sync.Mutex
	queue *queue
	state *cluster.State
}

// New makes a Scheduler; Run starts it.
func New(cfg Config) *Scheduler {
	s := &Scheduler{
		cfg: cfg, log: cfg.Log, filters: filter.Default(), scores: score.Default(),
		wake: make(chan struct{}, 1), queue: newQueue(), state: cluster.NewState(),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// Run schedules until ctx ends, and returns when all requests have ended. It may be called once.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.cfg.Recorder == nil {
		broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.cfg.Client.EventsV1()})
		defer broadcaster.Shutdown()
		if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
			return fmt.Errorf("cannot record events: %w", err)
		}
		s.cfg.Recorder = broadcaster.NewRecorder(scheme.Scheme, v1.DefaultSchedulerName)
	}
	if err := s.watch(ctx); err != nil {
		return err
	}
	var requests errgroup.Group
	requests.SetLimit(inFlight)
	for ctx.Err() == nil {
		a := s.decide(ctx)
		if a == nil {
			s.wait(ctx)
			continue
		}
		requests.Go(func() error {
			if a.err != nil {
				s.reject(ctx, a, v1.PodReasonUnschedulable)
			} else {
				s.bind(ctx, a)
			}
			return nil
		})
	}
	return requests.Wait()
}

// watch feeds the events of Pods and Nodes in, and returns when all that exist are known.
func (s *Scheduler) watch(ctx context.Context) error {
	pods, err := s.cfg.Informers.Core().V1().Pods().Informer().AddEventHandler(handler(s.setPod, s.removePod))
	if err != nil {
		return fmt.Errorf("cannot watch pods: %w", err)
	}
	nodes, err := s.cfg.Informers.Core().V1().Nodes().Informer().AddEventHandler(handler(s.setNode, s.removeNode))
	if err != nil {
		return fmt.Errorf("cannot watch nodes: %w", err)
	}
	s.cfg.Informers.Start(ctx.Done())
	cache.WaitFor(ctx, "", pods.HasSyncedChecker(), nodes.HasSyncedChecker())
	return nil
}

func handler[T any](set, remove func(*T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(*T)) },
		UpdateFunc: func(_, obj any) { set(obj.(*T)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			remove(obj.(*T))
		},
	}
}

// wait returns when there may be something to do.
func (s *Scheduler) wait(ctx context.Context) {
	s.mu.Lock()
	due, ok := s.queue.due()
	s.mu.Unlock()
	var expired <-chan time.Time
	if ok {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-expired:
	}
}

// change runs f under the lock and has the queue looked at again.
func (s *Scheduler) change(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// attempt is one decision about a Pod.
type attempt struct {
	item *item
	pod  *v1.Pod // the version decided about
	node string
	err  error // why there is no Node
}

// decide takes the next Pod and chooses its Node, on which it counts from now on. It returns nil when there is nothing to do.
func (s *Scheduler) decide(ctx context.Context) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.queue.pop(time.Now())
	if it == nil {
		return nil
	}
	node, err := findNode(s.filters, s.scores, s.state, it.pod)
	it.nodeless = errors.Is(err, errNoNodes)
	if err != nil {
		return &attempt{item: it, pod: it.pod.Pod, err: err}
	}
	s.explain(ctx, it.pod, node)
	s.state.Place(it.pod, node.Name)
	return &attempt{item: it, pod: it.pod.Pod, node: node.Name}
}

func (s *Scheduler) explain(ctx context.Context, pod *cluster.Pod, node *cluster.Node) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"pod", pod.Namespace + "/" + pod.Name, "node", node.Name}
	for _, rule := range s.scores {
		attrs = append(attrs, rule.Name(), rule.Explain(pod, node))
	}
	s.log.DebugContext(ctx, "Placing Pod", attrs...)
}

func (s *Scheduler) setPod(pod *v1.Pod) {
	switch {
	case pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed:
		s.removePod(pod)
	case pod.Spec.NodeName != "":
		s.change(func() {
			s.queue.remove(pod.UID)
			if s.state.Place(cluster.NewPod(pod), pod.Spec.NodeName) {
				s.freed(pod.Spec.NodeName) // it may use less than before
			}
		})
	case pod.Spec.SchedulerName != v1.DefaultSchedulerName || pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0:
		// The condition SchedulingGated is the API server's to set (pkg/registry/core/pod/strategy.go).
		s.removePod(pod)
	default:
		s.change(func() { s.queue.set(cluster.NewPod(pod), time.Now()) })
	}
}

func (s *Scheduler) removePod(pod *v1.Pod) {
	s.change(func() {
		s.queue.remove(pod.UID)
		s.freed(s.state.Remove(pod.UID))
	})
}

func (s *Scheduler) setNode(node *v1.Node) {
	s.change(func() {
		s.state.SetNode(node)
		for it := range s.queue.waiting() {
			if it.nodeless {
				s.queue.activate(it)
			}
		}
		s.freed(node.Name)
	})
}

func (s *Scheduler) removeNode(node *v1.Node) {
	s.change(func() { s.state.RemoveNode(node.Name) })
}

// freed tries again each Pod that now fits on a Node about which something has changed. Others would fail as before.
func (s *Scheduler) freed(name string) {
	node := s.state.Node(name)
	if node == nil {
		return
	}
	for it := range s.queue.waiting() {
		if len(s.filters.Explain(it.pod, node)) == 0 {
			s.queue.activate(it)
		}
	}
}
