// Package podgc deletes Pods that nobody else will: those of Nodes that are gone, those that wait on a Node that is out of service,
// those that were deleted before they had a Node, and the oldest of too many that have ended.
//
// Upstream looks for them every 20 seconds; here each is noticed by the event that makes it one.
package podgc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	nodeutil "k8s.io/kubernetes/pkg/util/node"
	podstatus "k8s.io/kubernetes/pkg/util/pod"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

const (
	// threshold is how many ended Pods are kept (podgc/config/v1alpha1, TerminatedPodGCThreshold).
	threshold = 12500
	// quarantine is how long a Node may be missing before its Pods are given up (podgc, quarantineTime).
	quarantine = 40 * time.Second
	// patience is what the API server gets to end a Pod without a Node itself, which it does unless it is interrupted.
	patience = 20 * time.Second
)

// Key names what is to be looked at: one Pod; or, without a name, the Pods of a Node; or, all empty, the number of ended Pods.
type Key struct{ Namespace, Name, Node string }

// New makes the controller.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) *reconcile.Loop[Key] {
	return newLoop(client, shared, log, threshold)
}

func newLoop(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger, threshold int) *reconcile.Loop[Key] {
	pods, nodes := shared.Core().V1().Pods(), shared.Core().V1().Nodes()
	c := &controller{client: client, pods: pods.Lister(), nodes: nodes.Lister(), threshold: threshold, log: log,
		missing: map[string]time.Time{}}
	loop := reconcile.New("podgc", log, c.reconcile)
	reconcile.On(loop, pods.Informer(), func(was, pod *v1.Pod) {
		if pod == nil {
			return
		}
		if pod.DeletionTimestamp != nil {
			c.deleted(loop, pod)
		}
		if ended(pod) && (was == nil || !ended(was)) {
			loop.Add(Key{})
		}
		if name := pod.Spec.NodeName; name != "" && (was == nil || was.Spec.NodeName == "") {
			loop.Add(Key{Node: name}) // which may not exist
		}
	})
	reconcile.On(loop, nodes.Informer(), func(was, node *v1.Node) {
		switch {
		case node == nil:
			loop.Add(Key{Node: was.Name})
		case outOfService(node) && (was == nil || !outOfService(was)):
			for _, pod := range c.on(node.Name) {
				loop.Add(Key{Namespace: pod.Namespace, Name: pod.Name})
			}
			fallthrough
		case was == nil:
			loop.Add(Key{Node: node.Name}) // which is no longer missing
		}
	})
	return loop
}

type controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	nodes     corelisters.NodeLister
	threshold int
	log       *slog.Logger

	mu      sync.Mutex
	missing map[string]time.Time // Nodes that Pods name but that do not exist, and since when
}

func (c *controller) reconcile(ctx context.Context, key Key) (time.Duration, error) {
	switch {
	case key.Name != "":
		return 0, c.terminating(ctx, key)
	case key.Node != "":
		return c.orphans(ctx, key.Node)
	default:
		return 0, c.surplus(ctx)
	}
}

// deleted has a deleted Pod ended, now or later, if its Node will not do it.
func (c *controller) deleted(loop *reconcile.Loop[Key], pod *v1.Pod) {
	key := Key{Namespace: pod.Namespace, Name: pod.Name}
	if pod.Spec.NodeName == "" {
		loop.AddAfter(key, patience)
	} else if node, err := c.nodes.Get(pod.Spec.NodeName); err == nil && outOfService(node) {
		loop.Add(key)
	}
}

// terminating ends a deleted Pod for which no Node will do it.
func (c *controller) terminating(ctx context.Context, key Key) error {
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil || pod.DeletionTimestamp == nil {
		return nil
	}
	if name := pod.Spec.NodeName; name != "" {
		if node, err := c.nodes.Get(name); err != nil || !outOfService(node) {
			return nil
		}
	}
	return c.end(ctx, pod, nil)
}

// orphans ends the Pods of a Node that has been missing for long enough, and that the API server does not know either.
func (c *controller) orphans(ctx context.Context, name string) (time.Duration, error) {
	if left := c.quarantined(name); left != 0 {
		return max(left, 0), nil
	}
	if _, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return 0, err
	}
	for _, pod := range c.on(name) {
		if err := c.end(ctx, pod, &v1.PodCondition{
			Type:               v1.DisruptionTarget,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, v1.DisruptionTarget),
			Status:             v1.ConditionTrue,
			Reason:             "DeletionByPodGC",
			Message:            "PodGC: node no longer exists",
		}); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// quarantined returns how long a Node without existence keeps its Pods: zero when the time is over, less when there is nothing to end.
func (c *controller) quarantined(name string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.nodes.Get(name); err == nil || len(c.on(name)) == 0 {
		delete(c.missing, name)
		return -1
	}
	since, known := c.missing[name]
	if !known {
		since = time.Now()
		c.missing[name] = since
	}
	return max(quarantine-time.Since(since), 0)
}

// surplus deletes ended Pods until no more than the threshold are left: evicted ones first, then the oldest.
func (c *controller) surplus(ctx context.Context) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil || len(pods) <= c.threshold {
		return err
	}
	pods = slices.DeleteFunc(pods, func(p *v1.Pod) bool { return !ended(p) })
	if len(pods) <= c.threshold {
		return nil
	}
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		if evicted(a) != evicted(b) {
			if evicted(a) {
				return -1
			}
			return 1
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range pods[:len(pods)-c.threshold] {
		if err := c.end(ctx, pod, nil); err != nil {
			return err
		}
	}
	return nil
}

// end lets a Pod have failed, as nobody else will say so, and removes it.
func (c *controller) end(ctx context.Context, pod *v1.Pod, condition *v1.PodCondition) error {
	c.log.Info("Deleting Pod that nobody else will delete", "pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName)
	if !ended(pod) {
		status := pod.Status.DeepCopy()
		status.Phase = v1.PodFailed
		status.ObservedGeneration = podutil.CalculatePodStatusObservedGeneration(pod)
		if condition != nil {
			podutil.UpdatePodCondition(status, condition)
		}
		if _, _, _, err := podstatus.PatchPodStatus(ctx, c.client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status); err != nil {
			return err
		}
	}
	now := metav1.NewDeleteOptions(0)
	now.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *now)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot delete pod: %w", err)
	}
	return nil
}

func (c *controller) on(node string) []*v1.Pod {
	pods, _ := c.pods.List(labels.Everything()) // a cache's List has no errors
	return slices.DeleteFunc(pods, func(p *v1.Pod) bool { return p.Spec.NodeName != node })
}

func ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

func evicted(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodFailed && pod.Status.Reason == "Evicted"
}

// outOfService reports whether an operator has said that the Node will not come back, and it is not there.
func outOfService(node *v1.Node) bool {
	return !nodeutil.IsNodeReady(node) && slices.ContainsFunc(node.Spec.Taints,
		func(t v1.Taint) bool { return t.Key == v1.TaintNodeOutOfService })
}
