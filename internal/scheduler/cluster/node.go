package cluster

import (
	"iter"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a Node with the sums over its Pods.
type Node struct {
	// Node is nil while only Pods that name it are known.
	*v1.Node
	Allocatable Resources
	// Requested and Estimate are the sums of the Pods' Requests and Estimate.
	Requested, Estimate Resources
	name                string
	images              map[string]int64
	ports               map[HostPort]int
	pods                map[types.UID]*Pod
	nominated           map[types.UID]*Pod
}

func newNode(name string) *Node {
	return &Node{name: name, ports: map[HostPort]int{}, pods: map[types.UID]*Pod{}}
}

// Taken reports whether a Pod of this Node holds a port that conflicts with p.
func (n *Node) Taken(p HostPort) bool {
	for held := range n.ports {
		if held.Conflicts(p) {
			return true
		}
	}
	return false
}

// ImageSize returns the bytes of an image that is on the Node, 0 for another.
func (n *Node) ImageSize(name string) int64 { return n.images[name] }

// Len returns the number of Pods that count here.
func (n *Node) Len() int { return len(n.pods) }

// Pods yields the Pods that count here, in no order.
func (n *Node) Pods() iter.Seq[*Pod] { return maps.Values(n.pods) }

// Nominated yields the Pods that wait for room here which has been made for them.
func (n *Node) Nominated() iter.Seq[*Pod] { return maps.Values(n.nominated) }

// Add lets a Pod count here. Outside of State it is for trials, that end with everything as it was.
func (n *Node) Add(p *Pod) {
	n.pods[p.UID] = p
	n.count(p, 1)
}

// Remove ends what Add began.
func (n *Node) Remove(p *Pod) {
	delete(n.pods, p.UID)
	n.count(p, -1)
}

func (n *Node) count(p *Pod, sign int) {
	n.Requested.add(&p.Requests, int64(sign))
	n.Estimate.add(&p.Estimate, int64(sign))
	for _, port := range p.Ports {
		if n.ports[port] += sign; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
}
