package scheduler

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

func (s *Scheduler) setPod(pod *v1.Pod) {
	switch {
	case pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed:
		s.removePod(pod)
	case pod.Spec.NodeName != "":
		s.change(func() { s.setPlaced(pod) })
	case pod.Spec.SchedulerName != v1.DefaultSchedulerName || pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0:
		// The condition SchedulingGated is the API server's to set (pkg/registry/core/pod/strategy.go).
		s.removePod(pod)
	default:
		s.change(func() { s.setWaiting(pod) })
	}
}

func (s *Scheduler) setPlaced(pod *v1.Pod) {
	s.queue.remove(pod.UID)
	now := cluster.NewPod(pod)
	nominated := s.state.Nominate(now, "")
	before := s.state.Place(now, pod.Spec.NodeName)
	if nominated != "" && nominated != pod.Spec.NodeName {
		s.freed(nominated)
	}
	if before == nil || !maps.Equal(before.Labels, now.Labels) || before.DeletionTimestamp == nil && now.DeletionTimestamp != nil {
		s.helped(now, before)
	}
	if before != nil && !before.Requests.Equal(&now.Requests) {
		s.freed(pod.Spec.NodeName) // it may use less than before
	}
}

func (s *Scheduler) setWaiting(pod *v1.Pod) {
	now := cluster.NewPod(pod)
	told := "" // the nomination that the last version told of
	if it := s.queue.items[pod.UID]; it != nil {
		told = it.pod.Status.NominatedNodeName
	}
	// What this process knows is newer than a version that does not tell anything new.
	node := s.state.Nominated(pod.UID)
	if pod.Status.NominatedNodeName != told {
		node = pod.Status.NominatedNodeName
	}
	if s.state.Placed(pod.UID) {
		node = "" // it has found its place, and only the API server does not show it yet
	}
	if before := s.state.Nominate(now, node); before != "" && before != node {
		s.freed(before)
	}
	s.queue.set(now, time.Now())
}

func (s *Scheduler) removePod(pod *v1.Pod) {
	s.change(func() {
		s.queue.remove(pod.UID)
		if nominated := s.state.Nominate(&cluster.Pod{Pod: pod}, ""); nominated != "" {
			s.freed(nominated)
		}
		s.release(pod)
	})
}

// release lets a Pod count nowhere.
func (s *Scheduler) release(pod *v1.Pod) {
	if gone, node := s.state.Remove(pod.UID); gone != nil {
		s.helped(gone, nil)
		s.freed(node)
	}
}

func (s *Scheduler) setNode(node *v1.Node) {
	s.change(func() {
		if _, changed := s.state.SetNode(node); !changed {
			return
		}
		for it := range s.queue.waiting {
			if it.nodeless || it.distant {
				s.queue.activate(it, time.Now())
			}
		}
		s.freed(node.Name)
	})
}

func (s *Scheduler) removeNode(node *v1.Node) {
	s.change(func() {
		s.state.RemoveNode(node.Name)
		s.elsewhere()
	})
}

func (s *Scheduler) setNamespace(ns *v1.Namespace) {
	s.change(func() {
		if s.state.SetNamespace(ns.Name, ns.Labels) {
			s.elsewhere()
		}
	})
}

func (s *Scheduler) removeNamespace(ns *v1.Namespace) {
	s.change(func() { s.state.RemoveNamespace(ns.Name) })
}

// elsewhere tries again all Pods to which other Nodes and other Pods matter.
func (s *Scheduler) elsewhere() {
	for it := range s.queue.waiting {
		if it.distant {
			s.queue.activate(it, time.Now())
		}
	}
}

// freed tries again each Pod that can be helped by what has changed on a Node. Others would fail as before.
func (s *Scheduler) freed(name string) {
	node := s.state.Node(name)
	if node == nil {
		return
	}
	for it := range s.queue.waiting {
		if s.cycle.helps(it.pod, node) {
			s.queue.activate(it, time.Now())
		}
	}
}

// helped tries again each Pod to which it matters that a Pod, in this or its former version, is or was where it is.
func (s *Scheduler) helped(pod, before *cluster.Pod) {
	for it := range s.queue.waiting {
		if it.distant && (s.cycle.filters.Helped(it.pod, pod, s.state) || before != nil && s.cycle.filters.Helped(it.pod, before, s.state)) {
			s.queue.activate(it, time.Now())
		}
	}
}
