// Package nodeipam gives each Node a range of Pod addresses of its own out of the cluster's.
//
// Invariants: no two Nodes hold the same range; a Node keeps its range until it is gone. One worker allocates, so that two Nodes never
// look at the same free range.
package nodeipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	nodehelpers "k8s.io/component-helpers/node/util"

	"peapod.dev/peapod/internal/controllers/reconcile"
)

// Length of a Node's range for IPv4 and IPv6, unless the cluster's is smaller.
const (
	bits4 = 24
	bits6 = 64
)

// New makes the controller for the addresses in cluster; its keys are Nodes, and it must have one worker.
func New(client kubernetes.Interface, nodes coreinformers.NodeInformer, cluster netip.Prefix, recorder record.EventRecorder, log *slog.Logger) *reconcile.Loop[string] {
	cluster = cluster.Masked()
	bits := bits4
	if cluster.Addr().Is6() {
		bits = bits6
	}
	c := &controller{client: client, nodes: nodes.Lister(), recorder: recorder, cluster: cluster,
		bits: max(bits, cluster.Bits()), taken: map[netip.Prefix]string{}}
	loop := reconcile.New("nodeipam", log, c.reconcile)
	reconcile.On(loop, nodes.Informer(), func(was, is *v1.Node) {
		if is == nil {
			c.release(was)
			for _, name := range c.without() {
				loop.Add(name) // there is a free range again
			}
			return
		}
		c.take(is)
		if is.Spec.PodCIDR == "" {
			loop.Add(is.Name)
		}
	})
	return loop
}

type controller struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	cluster  netip.Prefix
	bits     int

	mu    sync.Mutex
	taken map[netip.Prefix]string // by which Node
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.nodes.Get(name)
	if err != nil || node.Spec.PodCIDR != "" {
		return 0, nil
	}
	prefix, ok := c.allocate(name)
	if !ok {
		ref := &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
		c.recorder.Eventf(ref, v1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", node.Name, "CIDRNotAvailable")
		return 0, nil // tried again when another Node goes
	}
	err = nodehelpers.PatchNodeCIDRs(ctx, c.client, types.NodeName(name), []string{prefix.String()})
	if err != nil {
		return 0, fmt.Errorf("cannot give the node the pod addresses %s: %w", prefix, err)
	}
	return 0, nil
}

// take notes the ranges that a Node holds.
func (c *controller) take(node *v1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cidr := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			c.taken[p.Masked()] = node.Name
		}
	}
}

func (c *controller) release(node *v1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, name := range c.taken {
		if name == node.Name {
			delete(c.taken, p)
		}
	}
}

// allocate returns the range that the Node was promised before, else the first free one. It is false when there is none.
func (c *controller) allocate(name string) (netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, holder := range c.taken {
		if holder == name {
			return p, true
		}
	}
	for addr := c.cluster.Addr(); c.cluster.Contains(addr); addr = next(addr, c.bits) {
		if p := netip.PrefixFrom(addr, c.bits); c.free(p) {
			c.taken[p] = name
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (c *controller) free(p netip.Prefix) bool {
	for taken := range c.taken {
		if taken.Overlaps(p) {
			return false
		}
	}
	return true
}

// without returns the Nodes that have no range.
func (c *controller) without() []string {
	nodes, _ := c.nodes.List(labels.Everything())
	nodes = slices.DeleteFunc(nodes, func(n *v1.Node) bool { return n.Spec.PodCIDR != "" })
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names
}

// next returns the first address after the range of that length which begins at addr; the zero Addr past the last one.
func next(addr netip.Addr, bits int) netip.Addr {
	b := addr.AsSlice()
	for i := (bits - 1) / 8; i >= 0; i-- {
		step := byte(1)
		if i == (bits-1)/8 {
			step <<= 7 - (bits-1)%8
		}
		if b[i] += step; b[i] >= step {
			out, _ := netip.AddrFromSlice(b)
			return out
		}
	}
	return netip.Addr{}
}
