package cluster

import (
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
	ports               map[HostPort]int
	pods                map[types.UID]*Pod
}

func newNode() *Node {
	return &Node{Requested: Resources{}, Estimate: Resources{}, ports: map[HostPort]int{}, pods: map[types.UID]*Pod{}}
}

// Free returns what is left of a resource; less than zero when Pods that name the Node themselves overcommit it.
func (n *Node) Free(name v1.ResourceName) int64 { return n.Allocatable[name] - n.Requested[name] }

// Taken reports whether a Pod of this Node holds a port that conflicts with p.
func (n *Node) Taken(p HostPort) bool {
	for held := range n.ports {
		if held.Conflicts(p) {
			return true
		}
	}
	return false
}

// Pods returns the number of Pods that count here.
func (n *Node) Pods() int { return len(n.pods) }

func (n *Node) add(p *Pod) {
	n.pods[p.UID] = p
	n.count(p, 1)
}

func (n *Node) remove(p *Pod) {
	delete(n.pods, p.UID)
	n.count(p, -1)
}

func (n *Node) count(p *Pod, sign int) {
	n.Requested.add(p.Requests, int64(sign))
	n.Estimate.add(p.Estimate, int64(sign))
	for _, port := range p.Ports {
		if n.ports[port] += sign; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
}

func sameUse(a, b *Pod) bool {
	return maps.Equal(a.Requests, b.Requests) && maps.Equal(a.Estimate, b.Estimate)
}
