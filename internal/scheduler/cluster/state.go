// Package cluster is the scheduler's picture of the cluster: Nodes, and which Pods use what of them.
//
// Invariants: a Pod counts on at most one Node; it counts from the moment the scheduler places it (before the API server has
// confirmed the binding) until it is gone or terminal; a Pod that is being deleted still counts.
//
// Nothing here is safe for concurrent use: the scheduler's lock guards it.
package cluster

import (
	"iter"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// State is the picture. Make one with NewState.
type State struct {
	// Moved, if not nil, is told of each Pod that comes to (1) or leaves (-1) a Node that exists.
	Moved func(pod *Pod, node *Node, sign int)

	nodes       map[string]*Node
	existing    []*Node // in the order of their coming
	pods        map[types.UID]Placement
	affine      map[types.UID]Placement // those of pods with terms about other Pods
	nominations map[types.UID]string
	namespaces  map[string]labels.Set
	images      map[string]int // on how many Nodes each is
	epoch       int
}

// Placement is a Pod and where it counts.
type Placement struct {
	Pod  *Pod
	Node *Node
}

// NewState returns an empty picture.
func NewState() *State {
	return &State{
		nodes: map[string]*Node{}, pods: map[types.UID]Placement{}, affine: map[types.UID]Placement{},
		nominations: map[types.UID]string{}, namespaces: map[string]labels.Set{}, images: map[string]int{},
	}
}

// Epoch changes with everything but Pods: Nodes and namespaces.
func (s *State) Epoch() int { return s.epoch }

// Nodes returns the Nodes that exist, oldest first. It is not to be changed.
func (s *State) Nodes() []*Node { return s.existing }

// Node returns the Node, or nil when it does not exist.
func (s *State) Node(name string) *Node {
	if n := s.nodes[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Affine yields the Pods that have terms about other Pods and are on a Node that exists.
func (s *State) Affine() iter.Seq[Placement] {
	return func(yield func(Placement) bool) {
		for _, p := range s.affine {
			if p.Node.Node != nil && !yield(p) {
				return
			}
		}
	}
}

// NodesWith returns on how many Nodes an image is.
func (s *State) NodesWith(image string) int { return s.images[image] }

// SetNode adds a Node or replaces what is known of it, and reports whether anything changed that a rule looks at.
func (s *State) SetNode(node *v1.Node) (*Node, bool) {
	n := s.entry(node.Name)
	old := n.Node
	if old == nil {
		s.existing = append(s.existing, n)
	}
	n.Node, n.Allocatable = node, resourcesOf(node.Status.Allocatable)
	images := imageSizes(node)
	changed := old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable || !maps.Equal(old.Labels, node.Labels) ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable)
	if changed || !maps.Equal(n.images, images) {
		s.epoch++
	}
	s.setImages(n, images)
	return n, changed
}

func (s *State) setImages(n *Node, images map[string]int64) {
	for name := range n.images {
		if s.images[name]--; s.images[name] == 0 {
			delete(s.images, name)
		}
	}
	for name := range images {
		s.images[name]++
	}
	n.images = images
}

// RemoveNode forgets a Node; its Pods count again if it comes back.
func (s *State) RemoveNode(name string) {
	n := s.Node(name)
	if n == nil {
		return
	}
	s.epoch++
	s.existing = slices.DeleteFunc(s.existing, func(e *Node) bool { return e == n })
	s.setImages(n, nil)
	n.Node, n.Allocatable = nil, Resources{}
	s.drop(name)
}

// Place lets pod count on a Node, instead of wherever and however it counted before; a nomination has done its duty. It returns the
// version that counted on this Node until now, nil when there was none.
func (s *State) Place(pod *Pod, node string) *Pod {
	var before *Pod
	if old, ok := s.pods[pod.UID]; ok {
		if s.nodes[node] == old.Node {
			before = old.Pod
		}
		s.Remove(pod.UID)
	}
	s.Nominate(pod, "")
	n := s.entry(node)
	s.pods[pod.UID] = Placement{pod, n}
	if pod.Affinity != nil {
		s.affine[pod.UID] = Placement{pod, n}
	}
	n.Add(pod)
	s.moved(pod, n, 1)
	return before
}

// Remove lets a Pod count nowhere. It returns how it counted and the name of the Node where it did; nil when it counted nowhere.
func (s *State) Remove(uid types.UID) (*Pod, string) {
	p, ok := s.pods[uid]
	if !ok {
		return nil, ""
	}
	delete(s.pods, uid)
	delete(s.affine, uid)
	p.Node.Remove(p.Pod)
	s.moved(p.Pod, p.Node, -1)
	s.drop(p.Node.name)
	return p.Pod, p.Node.name
}

// Placed reports whether a Pod counts somewhere.
func (s *State) Placed(uid types.UID) bool { return s.pods[uid].Pod != nil }

// Nominate reserves room on a Node for a Pod that is not placed yet, instead of where there was some before; "" is nowhere. It returns
// the name of the Node where there was some.
func (s *State) Nominate(pod *Pod, node string) string {
	before := s.nominations[pod.UID]
	if before != "" {
		delete(s.nominations, pod.UID)
		delete(s.nodes[before].nominated, pod.UID)
		s.drop(before)
	}
	if node != "" {
		n := s.entry(node)
		if n.nominated == nil {
			n.nominated = map[types.UID]*Pod{}
		}
		n.nominated[pod.UID] = pod
		s.nominations[pod.UID] = node
	}
	return before
}

// Nominated returns the name of the Node where there is room for a Pod, or "".
func (s *State) Nominated(uid types.UID) string { return s.nominations[uid] }

func (s *State) moved(pod *Pod, node *Node, sign int) {
	if s.Moved != nil && node.Node != nil {
		s.Moved(pod, node, sign)
	}
}

func (s *State) entry(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = newNode(name)
		s.nodes[name] = n
	}
	return n
}

// drop forgets a name that no Node and no Pod bears.
func (s *State) drop(name string) {
	if n := s.nodes[name]; n != nil && n.Node == nil && n.Len() == 0 && len(n.nominated) == 0 {
		delete(s.nodes, name)
	}
}
