// Package cluster is the scheduler's picture of the cluster: Nodes, and which Pods use what of them.
//
// Invariants: a Pod counts on at most one Node; it counts from the moment the scheduler places it (before the API server has
// confirmed the binding) until it is gone or terminal; a Pod that is being deleted still counts.
//
// Nothing here is safe for concurrent use: the scheduler's lock guards it.
package cluster

import (
	"iter"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is the picture. Make one with NewState.
type State struct {
	nodes map[string]*Node
	pods  map[types.UID]placement
	known int // Nodes that exist, not only named by a Pod
}

type placement struct {
	pod  *Pod
	node string
}

// NewState returns an empty picture.
func NewState() *State {
	return &State{nodes: map[string]*Node{}, pods: map[types.UID]placement{}}
}

// Len returns the number of Nodes that exist.
func (s *State) Len() int { return s.known }

// Node returns the Node, or nil when it does not exist.
func (s *State) Node(name string) *Node {
	if n := s.nodes[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Nodes yields the Nodes that exist, in no order.
func (s *State) Nodes() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for _, n := range s.nodes {
			if n.Node != nil && !yield(n) {
				return
			}
		}
	}
}

// SetNode adds a Node or replaces what is known of it.
func (s *State) SetNode(node *v1.Node) *Node {
	n := s.entry(node.Name)
	if n.Node == nil {
		s.known++
	}
	n.Node, n.Allocatable = node, resourcesOf(node.Status.Allocatable)
	return n
}

// RemoveNode forgets a Node; its Pods count again if it comes back.
func (s *State) RemoveNode(name string) {
	n := s.Node(name)
	if n == nil {
		return
	}
	s.known--
	n.Node, n.Allocatable = nil, nil
	s.drop(name)
}

// Place lets pod count on a Node, instead of wherever and however it counted before. It reports whether anything changed.
func (s *State) Place(pod *Pod, node string) bool {
	if old, ok := s.pods[pod.UID]; ok {
		if old.node == node && sameUse(old.pod, pod) {
			return false
		}
		s.Remove(pod.UID)
	}
	s.pods[pod.UID] = placement{pod, node}
	s.entry(node).add(pod)
	return true
}

// Remove lets a Pod count nowhere and returns the name of the Node where it did; "" when it counted nowhere.
func (s *State) Remove(uid types.UID) string {
	p, ok := s.pods[uid]
	if !ok {
		return ""
	}
	delete(s.pods, uid)
	s.nodes[p.node].remove(p.pod)
	s.drop(p.node)
	return p.node
}

func (s *State) entry(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = newNode()
		s.nodes[name] = n
	}
	return n
}

// drop forgets a name that no Node and no Pod bears.
func (s *State) drop(name string) {
	if n := s.nodes[name]; n.Node == nil && n.Pods() == 0 {
		delete(s.nodes, name)
	}
}
