package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/fault"
)

// reporter sends the newest status only, one request in flight.
type reporter struct {
	old     v1.PodStatus // computed last
	latest  *v1.Pod      // as the API server returned it for the last status that was sent
	busy    bool
	since   time.Time // when the unsent change began
	retryAt time.Time
	deleted bool
}

// gather is how long the first status of a starting Pod waits for better: a Pod that runs within it
// costs one write instead of two.
const gather = time.Second

// publish makes s the Pod's status and, once everything is reclaimed, removes a deleted Pod's API object.
// It returns when to call again though nothing changes, zero for never.
func (w *Worker) publish(ctx context.Context, pod *v1.Pod, s v1.PodStatus, reclaimed bool, now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &w.report
	r.old = s
	base := pod
	if r.latest != nil && resourceVersion(pod) <= resourceVersion(r.latest) {
		base = r.latest // the watch has not caught up with our own write
	}
	same := equality.Semantic.DeepEqual(base.Status, s)
	remove := same && reclaimed && pod.DeletionTimestamp != nil && podutil.IsPodPhaseTerminal(s.Phase) && !r.deleted
	if r.busy || same && !remove {
		r.since = time.Time{}
		return time.Time{}
	}
	if now.Before(r.retryAt) {
		return r.retryAt
	}
	if !remove && pod.DeletionTimestamp == nil && creating(&s) && pod.Status.StartTime == nil {
		if r.since.IsZero() {
			r.since = now
		}
		if at := r.since.Add(gather); now.Before(at) {
			return at
		}
	}
	r.since = time.Time{}
	r.busy = true
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		var err error
		var updated *v1.Pod
		if remove {
			err = w.remove(ctx, pod)
		} else {
			fault.Point("before status")
			updated, err = w.send(ctx, base, s)
			fault.Point("after status")
			if err == nil && reclaimed && pod.DeletionTimestamp != nil && podutil.IsPodPhaseTerminal(s.Phase) {
				err = w.remove(ctx, pod)
				remove = true
			}
		}
		w.mu.Lock()
		r.busy = false
		switch {
		case err == nil:
			r.deleted = r.deleted || remove
			if updated != nil {
				r.latest = updated
			}
		case apierrors.IsNotFound(err) || ctx.Err() != nil:
		default:
			w.log.Error("cannot report the pod's status", "error", err)
			r.retryAt = time.Now().Add(time.Second)
		}
		w.mu.Unlock()
		w.Poke()
	}()
	return time.Time{}
}

// creating tells whether the status says no more than that containers are being made.
func creating(s *v1.PodStatus) bool {
	if s.Phase != v1.PodPending {
		return false
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, c := range list {
			if c.State.Waiting == nil || c.State.Waiting.Reason != "ContainerCreating" && c.State.Waiting.Reason != "PodInitializing" {
				return false
			}
		}
	}
	return true
}

// send makes s the status of base and returns the Pod as it is then. It is an update in one piece, which the API
// server does in half the time of a patch; when somebody else has written meanwhile it is a patch of what has
// changed, as the kubelet sends it, so that nobody's condition is lost.
func (w *Worker) send(ctx context.Context, base *v1.Pod, s v1.PodStatus) (*v1.Pod, error) {
	next := *base
	next.Status = s
	updated, err := w.cfg.Client.CoreV1().Pods(base.Namespace).UpdateStatus(ctx, &next, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) {
		return updated, err
	}
	from, err := json.Marshal(v1.Pod{Status: base.Status})
	if err != nil {
		return nil, err
	}
	// Only the new side has the UID, so that it stays in the patch: a precondition.
	to, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: s})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, v1.Pod{})
	if err != nil {
		return nil, err
	}
	return w.cfg.Client.CoreV1().Pods(base.Namespace).Patch(ctx, base.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// resourceVersion is the Pod's resource version as a number, which it is with etcd; 0 if it is none.
func resourceVersion(pod *v1.Pod) uint64 {
	n, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (w *Worker) remove(ctx context.Context, pod *v1.Pod) error {
	zero := int64(0)
	fault.Point("before delete")
	err := w.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	fault.Point("after delete")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// event records an event on the Pod, or on one of its containers.
func (w *Worker) event(pod *v1.Pod, c *v1.Container, kind, reason, format string, args ...any) {
	ref := &v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if c != nil && c.Name != "" {
		ref.FieldPath = fieldPath(pod, c.Name)
	}
	w.cfg.Events.Eventf(ref, kind, reason, format, args...)
}

func fieldPath(pod *v1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}
