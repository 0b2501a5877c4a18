package agent

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/admit"
	"peapod.dev/peapod/internal/agent/allocation"
)

// resize grants what Pods ask for beyond what they have, as far as the node has room, in the kubelet's order. What does not
// fit is deferred: it is tried again when a Pod ends, goes, or has become smaller.
func (a *Agent) resize() {
	a.workers.admitting.Lock()
	defer a.workers.admitting.Unlock()
	var wishes []allocation.Resize
	for _, w := range a.workers.all() {
		if wish, ok := w.Resizing(); ok {
			wishes = append(wishes, wish)
		}
	}
	if len(wishes) == 0 {
		return
	}
	node, err := a.getNode()
	if err != nil {
		return // not registered yet: no Pod runs
	}
	slices.SortStableFunc(wishes, allocation.Compare)
	for _, wish := range wishes {
		w := a.workers.get(wish.Pod.UID)
		if w == nil {
			continue
		}
		if ok, _, message := admit.Admit(node, a.others(wish.Pod), wish.Pod, a.machine.admission); ok {
			w.Grant(wish.Pod)
		} else {
			w.Defer(wish.Pod, message)
		}
	}
}

// makesRoomOrWantsIt tells whether an update of a Pod is a reason to look at resizes: its spec has changed, it has ended, or
// a resize of it is done.
func makesRoomOrWantsIt(old, pod *v1.Pod) bool {
	_, was := podutil.GetPodCondition(&old.Status, v1.PodResizeInProgress)
	_, is := podutil.GetPodCondition(&pod.Status, v1.PodResizeInProgress)
	return old.Generation != pod.Generation || was != nil && is == nil ||
		podutil.IsPodPhaseTerminal(pod.Status.Phase) && !podutil.IsPodPhaseTerminal(old.Status.Phase)
}
