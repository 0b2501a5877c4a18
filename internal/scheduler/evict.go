package scheduler

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	podstatus "k8s.io/kubernetes/pkg/util/pod"
)

// evict carries out the plan of an attempt. It is idempotent: victims that are on their way out are left to that. The
// room is free when the watch shows that they are gone, which takes as long as they need to end gracefully.
func (s *Scheduler) evict(ctx context.Context, a *attempt) error {
	var requests errgroup.Group
	for _, pod := range a.yielding {
		requests.Go(func() error { return s.clearNomination(ctx, pod) })
	}
	for _, victim := range a.plan.Victims {
		if victim.DeletionTimestamp == nil {
			requests.Go(func() error { return s.evictOne(ctx, a, victim.Pod) })
		}
	}
	return requests.Wait()
}

func (s *Scheduler) evictOne(ctx context.Context, a *attempt, victim *v1.Pod) error {
	status := victim.Status.DeepCopy()
	if podutil.UpdatePodCondition(status, &v1.PodCondition{
		Type:               v1.DisruptionTarget,
		Status:             v1.ConditionTrue,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&victim.Status, victim.Generation, v1.DisruptionTarget),
		Reason:             v1.PodReasonPreemptionByScheduler,
		Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", a.pod.Spec.SchedulerName),
	}) {
		_, _, _, err := podstatus.PatchPodStatus(ctx, s.cfg.Client, victim.Namespace, victim.Name, victim.UID, victim.Status, *status)
		if gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot mark Pod %s/%s for eviction: %w", victim.Namespace, victim.Name, err)
		}
	}
	err := s.cfg.Client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, *metav1.NewPreconditionDeleteOptions(string(victim.UID)))
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot evict Pod %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.cfg.Recorder.Eventf(victim, a.pod, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", a.pod.UID, *a.nominate)
	return nil
}

// gone reports whether a request came too late: there is no such Pod, or one of another UID.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

func (s *Scheduler) clearNomination(ctx context.Context, pod *v1.Pod) error {
	status := pod.Status.DeepCopy()
	status.NominatedNodeName = ""
	_, _, _, err := podstatus.PatchPodStatus(ctx, s.cfg.Client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status)
	if err != nil && !gone(err) {
		return fmt.Errorf("cannot take the nominated node from Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
