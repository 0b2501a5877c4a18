package nodelifecycle

import (
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodehelpers "k8s.io/component-helpers/node/util"
)

// pulse notes when each Node was last heard of, by this machine's clock: the Nodes' own clocks may be wrong. It is safe for
// concurrent use.
type pulse struct {
	mu    sync.Mutex
	nodes map[string]beat
}

type beat struct {
	at      time.Time // when something new was seen
	renewed time.Time // the lease's time then
	posted  time.Time // the time of the condition Ready then
}

func newPulse() *pulse { return &pulse{nodes: map[string]beat{}} }

// lease notes a lease, if it has been renewed since the last one.
func (p *pulse) lease(l *coordinationv1.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.nodes[l.Name]; l.Spec.RenewTime != nil && l.Spec.RenewTime.After(b.renewed) {
		b.renewed, b.at = l.Spec.RenewTime.Time, time.Now()
		p.nodes[l.Name] = b
	}
}

// status notes a Node's status, if it has been posted anew. A Node seen for the first time counts as heard of.
func (p *pulse) status(n *v1.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, known := p.nodes[n.Name]
	var posted time.Time
	if _, c := nodehelpers.GetNodeCondition(&n.Status, v1.NodeReady); c != nil {
		posted = c.LastHeartbeatTime.Time
	}
	if !known || !posted.Equal(b.posted) {
		b.posted, b.at = posted, time.Now()
		p.nodes[n.Name] = b
	}
}

func (p *pulse) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.nodes, name)
}

// left returns how long the Node may still be silent.
func (p *pulse) left(n *v1.Node, grace time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return grace - time.Since(p.nodes[n.Name].at)
}

// lost returns the Node as it is when its agent is silent: nothing that the agent reports is known any more. The network condition is
// not the agent's.
func lost(node *v1.Node, now metav1.Time) *v1.Node {
	node = node.DeepCopy()
	for _, kind := range []v1.NodeConditionType{v1.NodeReady, v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure} {
		_, c := nodehelpers.GetNodeCondition(&node.Status, kind)
		switch {
		case c == nil:
			node.Status.Conditions = append(node.Status.Conditions, v1.NodeCondition{
				Type: kind, Status: v1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
		case c.Status != v1.ConditionUnknown:
			c.Status, c.LastTransitionTime = v1.ConditionUnknown, now
			c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		}
	}
	return node
}
