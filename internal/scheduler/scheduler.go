// Package scheduler gives each Pod that has no Node the Node that suits it best, as kube-scheduler's default profile does.
//
// One lock guards the queue and the picture of the cluster, and a whole decision is made under it. So no event can fall between a
// verdict and the parking of the Pod it is about, and a decision is counted before the next one is made: Pods that arrive together
// never overcommit a Node. Everything that waits for the API server (binding, status, events) happens outside the lock, concurrently,
// and for one Pod in order.
//
// Nothing polls. A Pod that fits nowhere is tried again when an event may help it: a Node that would take it has changed or has lost a
// Pod, or, where other Pods matter, one that it is about has come, gone or changed. While there is more important work, it then waits for
// the end of a growing back-off. After an error a Pod is tried again after such a back-off.
//
// A Pod that fits nowhere may have less important ones evicted. From then on room is reserved for it on their Node (a nomination),
// until it is placed there or elsewhere, is gone, or a more important Pod takes the room.
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
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/preempt"
)

// inFlight is the greatest number of requests to the API server at a time.
const inFlight = 64

// Config is what a Scheduler needs.
type Config struct {
	// Client must not be rate limited (QPS < 0): a burst of Pods would wait in the client.
	Client kubernetes.Interface
	// Informers watch Pods, Nodes, Namespaces and PodDisruptionBudgets; Run starts them if nobody has.
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
	budgets policylisters.PodDisruptionBudgetLister
	wake    chan struct{} // has room for one: something may have become active

	mu    sync.Mutex
	queue *queue
	state *cluster.State
	cycle *cycle
}

// New makes a Scheduler; Run starts it.
func New(cfg Config) *Scheduler {
	s := &Scheduler{
		cfg: cfg, log: cfg.Log, budgets: cfg.Informers.Policy().V1().PodDisruptionBudgets().Lister(),
		wake: make(chan struct{}, 1), queue: newQueue(), state: cluster.NewState(),
	}
	s.cycle = newCycle(s.state)
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

// watch feeds the events of Namespaces, Pods and Nodes in, and returns when all that exist are known.
func (s *Scheduler) watch(ctx context.Context) error {
	namespaces, err := s.cfg.Informers.Core().V1().Namespaces().Informer().AddEventHandler(handler(s.setNamespace, s.removeNamespace))
	if err != nil {
		return fmt.Errorf("cannot watch namespaces: %w", err)
	}
	pods, err := s.cfg.Informers.Core().V1().Pods().Informer().AddEventHandler(handler(s.setPod, s.removePod))
	if err != nil {
		return fmt.Errorf("cannot watch pods: %w", err)
	}
	nodes, err := s.cfg.Informers.Core().V1().Nodes().Informer().AddEventHandler(handler(s.setNode, s.removeNode))
	if err != nil {
		return fmt.Errorf("cannot watch nodes: %w", err)
	}
	s.cfg.Informers.Start(ctx.Done())
	cache.WaitFor(ctx, "", namespaces.HasSyncedChecker(), pods.HasSyncedChecker(), nodes.HasSyncedChecker())
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

	plan     *preempt.Plan // the Pods to evict
	yielding []*v1.Pod     // Pods that lose the room they had on the Node of plan
	nominate *string       // the Node to nominate, "" for none any more; nil leaves it as it is
}

// decide takes the next Pod and chooses its Node, on which it counts from now on, or the Pods that have to go for it. It returns nil when
// there is nothing to do.
func (s *Scheduler) decide(ctx context.Context) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.queue.pop(time.Now())
	if it == nil {
		return nil
	}
	a := &attempt{item: it, pod: it.pod.Pod}
	node, err := s.cycle.place(it.pod)
	it.nodeless, it.distant = errors.Is(err, errNoNodes), false
	if err == nil {
		s.explain(ctx, it.pod, node)
		s.state.Place(it.pod, node.Name)
		s.queue.bind(it)
		a.node = node.Name
		return a
	}
	a.err = err
	nominated, keep := "", false
	if refused := (*fitError)(nil); errors.As(err, &refused) {
		it.distant = refused.distant
		if a.plan, keep = s.cycle.preempt(it.pod, refused, s.listBudgets); a.plan != nil {
			nominated = a.plan.Node.Name
			a.yielding = s.displace(it.pod, a.plan.Node)
		}
	}
	if !keep {
		s.state.Nominate(it.pod, nominated)
		a.nominate = &nominated
	}
	return a
}

// displace takes the room on a Node from Pods less important than pod, which may no longer fit there: they look for another.
func (s *Scheduler) displace(pod *cluster.Pod, node *cluster.Node) (displaced []*v1.Pod) {
	for other := range node.Nominated() {
		if other.Priority >= pod.Priority {
			continue
		}
		displaced = append(displaced, other.Pod)
		s.state.Nominate(other, "")
		if it := s.queue.items[other.UID]; it != nil {
			s.queue.activate(it, time.Now())
		}
	}
	return displaced
}

func (s *Scheduler) listBudgets() []*policyv1.PodDisruptionBudget {
	budgets, err := s.budgets.List(labels.Everything())
	if err != nil {
		s.log.Error("Cannot list PodDisruptionBudgets", "err", err)
	}
	return budgets
}

func (s *Scheduler) explain(ctx context.Context, pod *cluster.Pod, node *cluster.Node) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"pod", pod.Namespace + "/" + pod.Name, "node", node.Name}
	for rule, why := range s.cycle.prepare(pod).preferences.Explain(node) {
		attrs = append(attrs, rule, why)
	}
	s.log.DebugContext(ctx, "Placing Pod", attrs...)
}
