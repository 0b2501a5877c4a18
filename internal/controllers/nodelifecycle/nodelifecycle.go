// Package nodelifecycle says of a Node whose agent has gone silent that its state is unknown, and keeps the taints of every Node in
// step with its conditions (pkg/controller/nodelifecycle upstream).
//
// Taints and conditions follow events at once; silence is noticed by one timer a Node. When no Node at all is ready nobody is evicted:
// there would be nowhere to go, and it is more likely this side that is cut off.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	nodehelpers "k8s.io/component-helpers/node/util"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	nodeutil "k8s.io/kubernetes/pkg/util/node"
	podstatus "k8s.io/kubernetes/pkg/util/pod"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Component is the source of its events.
const Component = "node-controller"

// GracePeriod is how long an agent may be silent by default (nodelifecycle/config/v1alpha1, NodeMonitorGracePeriod).
const GracePeriod = 50 * time.Second

// New makes the controller, whose keys are Nodes, and the informer of the Nodes' leases that it needs. The caller runs both.
// grace is how long an agent may be silent.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, recorder record.EventRecorder, grace time.Duration, log *slog.Logger) (*reconcile.Loop[string], cache.SharedIndexInformer) {
	leases := coordinationinformers.NewLeaseInformer(client, v1.NamespaceNodeLease, 0, cache.Indexers{})
	pods, nodes := shared.Core().V1().Pods(), shared.Core().V1().Nodes()
	c := &controller{client: client, pods: pods.Lister(), nodes: nodes.Lister(), recorder: recorder, grace: grace, pulse: newPulse()}
	loop := reconcile.New("nodelifecycle", log, c.reconcile)
	reconcile.On(loop, nodes.Informer(), func(was, is *v1.Node) {
		if is == nil {
			c.pulse.forget(was.Name)
			c.event(was, "RemovingNode", fmt.Sprintf("Removing Node %v from Controller", was.Name))
		} else {
			c.pulse.status(is)
			loop.Add(is.Name)
		}
		if was == nil {
			c.event(is, "RegisteredNode", fmt.Sprintf("Registered Node %v in Controller", is.Name))
		}
		if ready(was) != ready(is) {
			// Whether anybody is evicted depends on whether some Node is ready.
			all, _ := c.nodes.List(labels.Everything())
			for _, node := range all {
				loop.Add(node.Name)
			}
		}
	})
	reconcile.On(loop, leases, func(_, is *coordinationv1.Lease) {
		if is != nil {
			c.pulse.lease(is)
		}
	})
	reconcile.On(loop, pods.Informer(), func(was, is *v1.Pod) {
		if is != nil && is.Spec.NodeName != "" && (was == nil || was.Spec.NodeName == "") {
			loop.Add(is.Spec.NodeName) // which may be silent already
		}
	})
	return loop, leases
}

type controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	grace    time.Duration
	pulse    *pulse
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.nodes.Get(name)
	if err != nil {
		return 0, nil
	}
	left := c.pulse.left(node, c.grace)
	if left <= 0 {
		if left, node, err = c.silent(ctx, node); err != nil || node == nil {
			return 0, err
		}
	}
	if err := c.taint(ctx, node); err != nil {
		return 0, err
	}
	if ready(node) == v1.ConditionUnknown {
		return left, c.markPods(ctx, node.Name)
	}
	return left, nil
}

// silent sets the conditions of a Node that has not been heard of to Unknown, and returns the Node as it is then; or how much time it has
// left after all. There is no Node when a newer version of it is on its way, which will be looked at.
func (c *controller) silent(ctx context.Context, node *v1.Node) (time.Duration, *v1.Node, error) {
	// The watch may be late: nobody is declared lost on old news.
	lease, err := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, nil, fmt.Errorf("cannot look up the node's lease: %w", err)
	}
	if err == nil {
		c.pulse.lease(lease)
		if left := c.pulse.left(node, c.grace); left > 0 {
			return left, node, nil
		}
	}
	unknown := lost(node, metav1.Now())
	if equality.Semantic.DeepEqual(unknown.Status.Conditions, node.Status.Conditions) {
		return 0, node, nil
	}
	unknown, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, unknown, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("cannot set the node's conditions: %w", err)
	}
	if ready(node) == v1.ConditionTrue {
		c.recorder.Eventf(reference(node), v1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
	}
	return 0, unknown, nil
}

// taint brings the Node's taints in step with its conditions.
func (c *controller) taint(ctx context.Context, node *v1.Node) error {
	all, _ := c.nodes.List(labels.Everything()) // a cache's List has no errors
	evict := false
	for _, n := range all {
		evict = evict || ready(n) == v1.ConditionTrue
	}
	want := taints(node, evict, metav1.Now())
	if equality.Semantic.DeepEqual(want, node.Spec.Taints) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": want},
	})
	if err == nil {
		_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // a newer version is on its way and will be looked at
	}
	if err != nil {
		return fmt.Errorf("cannot change the node's taints: %w", err)
	}
	return nil
}

// markPods says of the Pods of a silent Node that nobody knows how they are: none is ready, and those that the Node had
// reported have the phase Unknown ("Pod Lifecycle", Pod phase), with the reason and the words that upstream has for it. A
// Pod that has ended stays ended. The agent, when it is back, writes what is true.
func (c *controller) markPods(ctx context.Context, node string) error {
	pods, _ := c.pods.List(labels.Everything()) // a cache's List has no errors
	var errs []error
	for _, pod := range pods {
		if pod.Spec.NodeName != node || podutil.IsPodTerminal(pod) {
			continue
		}
		status := pod.Status.DeepCopy()
		_, condition := podutil.GetPodCondition(status, v1.PodReady)
		wasReady := condition != nil && condition.Status != v1.ConditionFalse
		if wasReady {
			unready := *condition
			unready.Status = v1.ConditionFalse
			podutil.UpdatePodCondition(status, &unready)
		}
		reported := status.StartTime != nil && status.Phase != v1.PodUnknown
		if reported {
			status.Phase, status.Reason = v1.PodUnknown, nodeutil.NodeUnreachablePodReason
			status.Message = fmt.Sprintf(nodeutil.NodeUnreachablePodMessage, node, pod.Name)
		}
		if !wasReady && !reported {
			continue
		}
		if _, _, _, err := podstatus.PatchPodStatus(ctx, c.client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status); err != nil {
			errs = append(errs, err)
			continue
		}
		if wasReady {
			c.recorder.Event(pod, v1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
	}
	return errors.Join(errs...)
}

func (c *controller) event(node *v1.Node, reason, message string) {
	c.recorder.Eventf(reference(node), v1.EventTypeNormal, reason, "Node %s event: %s", node.Name, message)
}

func reference(node *v1.Node) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}

// ready returns the status of the Node's condition Ready; "" when it has none.
func ready(node *v1.Node) v1.ConditionStatus {
	if node == nil {
		return ""
	}
	if _, c := nodehelpers.GetNodeCondition(&node.Status, v1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}
