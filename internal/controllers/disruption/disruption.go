// Package disruption keeps the status of PodDisruptionBudgets, by which the API server allows or refuses evictions.
//
// As upstream, a percentage and maxUnavailable need to know how many Pods there ought to be, which only a workload's controller can
// tell: for bare Pods minAvailable as a number is what works.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/record"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Component is the source of its events.
const Component = "controllermanager"

// deletionTimeout is how long after an eviction was allowed its Pod is taken to be on the way out (disruption.DeletionTimeout).
const deletionTimeout = 2 * time.Minute

// New makes the controller; its keys are budgets.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, recorder record.EventRecorder, log *slog.Logger) *reconcile.Loop[types.NamespacedName] {
	pods, budgets := shared.Core().V1().Pods(), shared.Policy().V1().PodDisruptionBudgets()
	c := &controller{client: client, pods: pods.Lister(), budgets: budgets.Lister(), recorder: recorder}
	loop := reconcile.New("disruption", log, c.reconcile)
	reconcile.On(loop, budgets.Informer(), func(_, b *policy.PodDisruptionBudget) {
		if b != nil {
			loop.Add(types.NamespacedName{Namespace: b.Namespace, Name: b.Name})
		}
	})
	reconcile.On(loop, pods.Informer(), func(was, is *v1.Pod) {
		for _, pod := range []*v1.Pod{was, is} {
			if pod == nil {
				continue
			}
			matching, _ := c.budgets.GetPodPodDisruptionBudgets(pod) // an error means there are none
			for _, b := range matching {
				loop.Add(types.NamespacedName{Namespace: b.Namespace, Name: b.Name})
			}
		}
	})
	return loop
}

type controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	budgets  policylisters.PodDisruptionBudgetLister
	recorder record.EventRecorder
}

func (c *controller) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	budget, err := c.budgets.PodDisruptionBudgets(name.Namespace).Get(name.Name)
	if err != nil {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return 0, c.fail(ctx, budget, err)
	}
	pods, err := c.pods.Pods(name.Namespace).List(selector)
	if err != nil {
		return 0, err
	}
	c.explain(budget, pods)
	expected, desired, err := counts(budget, pods)
	if err != nil {
		c.recorder.Eventf(budget, v1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return 0, c.fail(ctx, budget, err)
	}
	now := time.Now()
	status, recheck := compute(budget, pods, expected, desired, now)
	updated := budget.DeepCopy()
	updated.Status = status
	if equality.Semantic.DeepEqual(status, budget.Status) && pdbhelper.ConditionsAreUpToDate(budget) {
		return recheck, nil
	}
	pdbhelper.UpdateDisruptionAllowedCondition(updated)
	return recheck, c.write(ctx, updated)
}

// explain records what a user should know about the Pods that the budget is for.
func (c *controller) explain(budget *policy.PodDisruptionBudget, pods []*v1.Pod) {
	if len(pods) == 0 {
		c.recorder.Eventf(budget, v1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	if !needsScale(budget) {
		return
	}
	for _, pod := range pods {
		if metav1.GetControllerOf(pod) == nil {
			c.recorder.Eventf(budget, v1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
				"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
				"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
			return
		}
	}
}

// needsScale reports whether the budget is relative to how many Pods there ought to be.
func needsScale(b *policy.PodDisruptionBudget) bool {
	return b.Spec.MaxUnavailable != nil || b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String
}

// counts returns how many Pods there ought to be and how many of them have to be healthy. Bare Pods add nothing to the first when it
// comes from controllers, so that a relative budget allows no disruption of them.
func counts(b *policy.PodDisruptionBudget, pods []*v1.Pod) (expected, desired int32, err error) {
	if needsScale(b) {
		for _, pod := range pods {
			if metav1.GetControllerOf(pod) != nil {
				return 0, 0, fmt.Errorf("found no controllers for pod %q", pod.Name)
			}
		}
		return 0, 0, nil
	}
	if b.Spec.MinAvailable == nil {
		return 0, 0, nil
	}
	return int32(len(pods)), b.Spec.MinAvailable.IntVal, nil
}

// compute returns the budget's status, and after which time it is to be computed again: when a Pod that was allowed to be evicted is
// still there.
func compute(b *policy.PodDisruptionBudget, pods []*v1.Pod, expected, desired int32, now time.Time) (policy.PodDisruptionBudgetStatus, time.Duration) {
	status := policy.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation,
		DisruptedPods:      map[string]metav1.Time{},
		DesiredHealthy:     desired,
		ExpectedPods:       expected,
		Conditions:         b.Status.DeepCopy().Conditions,
	}
	var recheck time.Duration
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if evicted, ok := b.Status.DisruptedPods[pod.Name]; ok {
			if left := evicted.Add(deletionTimeout).Sub(now); left > 0 {
				status.DisruptedPods[pod.Name] = evicted
				if recheck == 0 || left < recheck {
					recheck = left
				}
				continue
			}
		}
		if podutil.IsPodReady(pod) {
			status.CurrentHealthy++
		}
	}
	// With no Pods expected nothing may be disrupted: Pods may just be appearing.
	if expected > 0 {
		status.DisruptionsAllowed = max(0, status.CurrentHealthy-desired)
	}
	return status, recheck
}

// fail lets the budget allow nothing, and say why.
func (c *controller) fail(ctx context.Context, budget *policy.PodDisruptionBudget, cause error) error {
	updated := budget.DeepCopy()
	updated.Status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&updated.Status.Conditions, metav1.Condition{
		Type: policy.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
		Reason: policy.SyncFailedReason, Message: cause.Error(), ObservedGeneration: updated.Status.ObservedGeneration,
	})
	if equality.Semantic.DeepEqual(updated.Status, budget.Status) {
		return nil
	}
	return c.write(ctx, updated)
}

func (c *controller) write(ctx context.Context, budget *policy.PodDisruptionBudget) error {
	_, err := c.client.PolicyV1().PodDisruptionBudgets(budget.Namespace).UpdateStatus(ctx, budget, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // a newer version is on its way and will be looked at
	}
	if err != nil {
		return fmt.Errorf("cannot update the budget's status: %w", err)
	}
	return nil
}
