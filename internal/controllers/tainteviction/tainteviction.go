// Package tainteviction deletes Pods from Nodes whose NoExecute taints they do not tolerate, at once or when the tolerated time is
// over (pkg/controller/tainteviction upstream).
package tainteviction

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	corehelper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
	podstatus "k8s.io/kubernetes/pkg/util/pod"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Component is the source of its events.
const Component = "taint-eviction-controller"

// New makes the controller; its keys are Pods.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, recorder record.EventRecorder, log *slog.Logger) *reconcile.Loop[types.NamespacedName] {
	pods, nodes := shared.Core().V1().Pods(), shared.Core().V1().Nodes()
	c := &controller{client: client, pods: pods.Lister(), nodes: nodes.Lister(), recorder: recorder,
		due: map[types.NamespacedName]deadline{}}
	loop := reconcile.New("tainteviction", log, c.reconcile)
	reconcile.On(loop, pods.Informer(), func(was, is *v1.Pod) {
		if was == nil || is == nil || was.Spec.NodeName != is.Spec.NodeName || was.UID != is.UID ||
			!equality.Semantic.DeepEqual(was.Spec.Tolerations, is.Spec.Tolerations) {
			loop.Add(key(pick(is, was)))
		}
	})
	reconcile.On(loop, nodes.Informer(), func(was, is *v1.Node) {
		if equality.Semantic.DeepEqual(noExecute(was), noExecute(is)) {
			return
		}
		all, _ := c.pods.List(labels.Everything()) // a cache's List has no errors
		for _, pod := range all {
			if pod.Spec.NodeName == pick(is, was).Name {
				loop.Add(key(pod))
			}
		}
	})
	return loop
}

type controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	recorder record.EventRecorder

	mu  sync.Mutex
	due map[types.NamespacedName]deadline // Pods whose tolerated time runs
}

// deadline is when a Pod has to go. Once set it stays until the Pod may stay for ever: neither more taints nor other tolerations
// move it, as upstream.
type deadline struct {
	uid types.UID
	at  time.Time
}

func (c *controller) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	pod, err := c.pods.Pods(name.Namespace).Get(name.Name)
	if err != nil || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil {
		c.forget(name)
		return 0, nil
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return 0, nil // gone: its Pods are podgc's
	}
	taints := noExecute(node)
	tolerated, used := corehelper.GetMatchingTolerations(klog.Logger{}, taints, pod.Spec.Tolerations)
	limit, limited := shortest(used)
	switch {
	case tolerated && !limited: // also when there are no taints
		c.cancel(name)
		return 0, nil
	case tolerated:
		if left := time.Until(c.schedule(name, pod.UID, limit)); left > 0 {
			return left, nil
		}
	}
	c.forget(name)
	return 0, c.evict(ctx, pod)
}

// shortest returns the least time that one of the tolerations grants; false when all are without end.
func shortest(tolerations []v1.Toleration) (time.Duration, bool) {
	var least int64
	limited := false
	for _, t := range tolerations {
		if s := t.TolerationSeconds; s != nil && (!limited || *s < least) {
			least, limited = max(*s, 0), true
		}
	}
	return time.Duration(least) * time.Second, limited
}

func (c *controller) schedule(name types.NamespacedName, uid types.UID, limit time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.due[name]; ok && d.uid == uid {
		return d.at
	}
	at := time.Now().Add(limit)
	c.due[name] = deadline{uid, at}
	return at
}

func (c *controller) forget(name types.NamespacedName) (scheduled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, scheduled = c.due[name]
	delete(c.due, name)
	return scheduled
}

func (c *controller) cancel(name types.NamespacedName) {
	if c.forget(name) {
		c.event(name, "Cancelling deletion of Pod %s")
	}
}

func (c *controller) evict(ctx context.Context, pod *v1.Pod) error {
	c.event(key(pod), "Marking for deletion Pod %s")
	status := pod.Status.DeepCopy()
	podutil.UpdatePodCondition(status, &v1.PodCondition{
		Type:               v1.DisruptionTarget,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, v1.DisruptionTarget),
		Status:             v1.ConditionTrue,
		Reason:             "DeletionByTaintManager",
		Message:            "Taint manager: deleting due to NoExecute taint",
	})
	if _, _, _, err := podstatus.PatchPodStatus(ctx, c.client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status); err != nil {
		return err
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
		metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot delete pod: %w", err)
	}
	return nil
}

func (c *controller) event(pod types.NamespacedName, format string) {
	c.recorder.Eventf(&v1.ObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, Namespace: pod.Namespace},
		v1.EventTypeNormal, "TaintManagerEviction", format, pod.String())
}

func noExecute(node *v1.Node) []v1.Taint {
	if node == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t v1.Taint) bool { return t.Effect != v1.TaintEffectNoExecute })
}

func key(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// pick returns the newest version there is.
func pick[T any](is, was *T) *T {
	if is != nil {
		return is
	}
	return was
}
