package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	podstatus "k8s.io/kubernetes/pkg/util/pod"
)

// repeatReport is how long the same message about the same Pod is not shown again: events live longer.
const repeatReport = 5 * time.Minute

// maxNote is the greatest length of an event's note (pkg/apis/core/validation, NoteLengthLimit).
const maxNote = 1024

// bind tells the API server where the Pod goes. The API server sets the condition PodScheduled.
func (s *Scheduler) bind(ctx context.Context, a *attempt) {
	pod := a.pod
	err := s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: a.node},
	}, metav1.CreateOptions{})
	if err == nil {
		// The item stays where it is until the watch shows the Pod on its Node, so that no older version of it is taken for a new one.
		s.cfg.Recorder.Eventf(pod, nil, v1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, a.node)
		return
	}
	held := false
	s.change(func() {
		if held = s.queue.holds(a.item); held {
			s.release(pod)
		}
	})
	if !held || ctx.Err() != nil {
		return // bound after all, or gone
	}
	if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
		s.change(func() { s.queue.retry(a.item, time.Now()) }) // the Pod will be gone before that
		return
	}
	s.log.Error("Cannot bind Pod", "pod", pod.Namespace+"/"+pod.Name, "node", a.node, "err", err)
	a.nominate = new(string) // the room on the Node that was meant is given up
	a.err = fmt.Errorf("running Bind plugin %q: %w", "DefaultBinder", err)
	s.reject(ctx, a, v1.PodReasonSchedulerError)
}

// reject shows the user why the Pod has no Node, has others evicted for it where that helps, and then has the Pod wait for better times.
func (s *Scheduler) reject(ctx context.Context, a *attempt, reason string) {
	it, pod, message := a.item, a.pod, a.err.Error()
	// Nobody else touches these two while the item is busy.
	if message != it.reported || time.Since(it.at) > repeatReport {
		it.reported, it.at = message, time.Now()
		s.cfg.Recorder.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", truncate(message))
	}
	var requests errgroup.Group
	if a.plan != nil {
		requests.Go(func() error { return s.evict(ctx, a) })
	}
	err := s.setStatus(ctx, a, reason, message)
	err = errors.Join(err, requests.Wait())
	s.change(func() {
		switch {
		case !s.queue.holds(it): // gone, or bound after all
		case err == nil && reason == v1.PodReasonUnschedulable:
			s.queue.park(it, time.Now())
		default:
			s.queue.retry(it, time.Now())
			if err != nil && ctx.Err() == nil {
				s.log.Error("Cannot say why the Pod has no node, or make room for it", "pod", pod.Namespace+"/"+pod.Name, "err", err)
			}
		}
	})
}

// setStatus sets PodScheduled=False and the nominated Node; without a request when they are so already.
func (s *Scheduler) setStatus(ctx context.Context, a *attempt, reason, message string) error {
	pod := a.pod
	status := pod.Status.DeepCopy()
	changed := podutil.UpdatePodCondition(status, &v1.PodCondition{
		Type:               v1.PodScheduled,
		Status:             v1.ConditionFalse,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, v1.PodScheduled),
		Reason:             reason,
		Message:            message,
	})
	if a.nominate != nil && status.NominatedNodeName != *a.nominate {
		status.NominatedNodeName, changed = *a.nominate, true
	}
	if !changed {
		return nil
	}
	_, _, _, err := podstatus.PatchPodStatus(ctx, s.cfg.Client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status)
	return err
}

func truncate(message string) string {
	const more = " ..."
	if len(message) > maxNote {
		return message[:maxNote-len(more)] + more
	}
	return message
}
