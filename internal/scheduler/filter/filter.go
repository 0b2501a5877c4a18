// Package filter says whether a Pod may run on a Node, a file a rule, and explains why not in upstream's words.
//
// Rules are pure: the same Pod, Node and cluster give the same answer; nothing is read, written or logged.
package filter

import "peapod.dev/peapod/internal/scheduler/cluster"

// Reason is one cause why a Pod does not fit a Node.
type Reason struct {
	// Text is upstream's wording, without the count of Nodes in front.
	Text string
	// Evictable reports whether the Pod could fit if other Pods left the Node.
	Evictable bool
	// Distant reports whether the cause may lie on another Node.
	Distant bool
}

// Rule is one condition on a Pod and a Node.
type Rule interface {
	// Prepare works out once for a Pod what will be asked about every Node. It returns nil when the rule has nothing against the Pod
	// anywhere.
	Prepare(pod *cluster.Pod, state *cluster.State) Check
}

// Check is a rule for one Pod.
type Check interface {
	// Explain returns why the Pod may not run on node; nothing when it may.
	Explain(node *cluster.Node) []Reason
}

// Distant is a rule by which what happens on one Node matters to others.
type Distant interface {
	Rule
	// Helped reports whether pod, which the rule refused somewhere, may fit now that other has come, gone or changed anywhere.
	Helped(pod, other *cluster.Pod, state *cluster.State) bool
}

// Counter is a check that keeps counts of Pods and can be kept up to date.
type Counter interface {
	// Count takes note that other has come to node (1) or has left it (-1).
	Count(other *cluster.Pod, node *cluster.Node, sign int)
}

// Rules is an ordered list of rules. The order is upstream's (pkg/scheduler/apis/config/v1/default_plugins.go) and decides which
// reason a user sees.
type Rules []Rule

// Default returns all the rules.
func Default() Rules {
	return Rules{
		AffinityNames{}, NodeName{}, Unschedulable{}, Taints{}, NodeAffinity{}, HostPorts{}, Resources{}, TopologySpread{}, PodAffinity{},
	}
}

// Local returns the rules for which only the Node in question matters.
func (rules Rules) Local() Rules {
	var local Rules
	for _, rule := range rules {
		if _, distant := rule.(Distant); !distant {
			local = append(local, rule)
		}
	}
	return local
}

// Helped reports whether what a Pod did anywhere may help pod, which was refused for a distant reason.
func (rules Rules) Helped(pod, other *cluster.Pod, state *cluster.State) bool {
	for _, rule := range rules {
		if distant, ok := rule.(Distant); ok && distant.Helped(pod, other, state) {
			return true
		}
	}
	return false
}

// Prepare prepares all the rules for a Pod.
func (rules Rules) Prepare(pod *cluster.Pod, state *cluster.State) *Checks {
	c := &Checks{Pod: pod}
	for _, rule := range rules {
		check := rule.Prepare(pod, state)
		if check == nil {
			continue
		}
		c.all = append(c.all, check)
		if counter, ok := check.(Counter); ok {
			c.counters = append(c.counters, counter)
		}
	}
	return c
}

// Checks are the rules for one Pod, or for others that are Alike. They hold as long as the cluster's Epoch does not change and every Pod
// that comes and goes is counted.
type Checks struct {
	Pod      *cluster.Pod
	all      []Check
	counters []Counter
}

// Count takes note that other has come to node (1) or has left it (-1).
func (c *Checks) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	for _, counter := range c.counters {
		counter.Count(other, node, sign)
	}
}

// Explain returns the reasons of the first rule that objects, as upstream does; nothing when the Pod fits. The Pod also yields to Pods
// of its priority or a higher one for which room has been made on the Node: it must fit beside them, and without them too.
func (c *Checks) Explain(node *cluster.Node) []Reason {
	var others []*cluster.Pod
	for other := range node.Nominated() {
		if other.Priority >= c.Pod.Priority && other.UID != c.Pod.UID {
			others = append(others, other)
		}
	}
	if len(others) > 0 {
		for _, other := range others {
			node.Add(other)
			c.Count(other, node, 1)
		}
		reasons := c.explain(node)
		for _, other := range others {
			node.Remove(other)
			c.Count(other, node, -1)
		}
		if len(reasons) > 0 {
			return reasons
		}
	}
	return c.explain(node)
}

func (c *Checks) explain(node *cluster.Node) []Reason {
	for _, check := range c.all {
		if reasons := check.Explain(node); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

// forPod is a check that needs nothing but the Pod.
type forPod struct {
	pod     *cluster.Pod
	explain func(pod *cluster.Pod, node *cluster.Node) []Reason
}

func (c forPod) Explain(node *cluster.Node) []Reason { return c.explain(c.pod, node) }
