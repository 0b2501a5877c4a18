package filter

import (
	fwk "k8s.io/kube-scheduler/framework"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// PodAffinity keeps a Pod near the Pods that it requires and away from those that it, or they, cannot bear.
type PodAffinity struct{}

// Prepare implements Rule.
func (PodAffinity) Prepare(pod *cluster.Pod, state *cluster.State) Check {
	c := &affinity{pod: pod, state: state, near: places{}, far: places{}, shunned: places{}}
	for placed := range state.Affine() {
		c.countShunned(placed.Pod, placed.Node, 1)
	}
	if pod.Affinity != nil {
		c.required, c.anti = pod.Affinity.Required, pod.Affinity.RequiredAnti
	}
	if len(c.required) > 0 || len(c.anti) > 0 {
		for _, node := range state.Nodes() {
			for other := range node.Pods() {
				c.countOwn(other, node, 1)
			}
		}
	}
	return c
}

// Helped implements Distant.
func (PodAffinity) Helped(pod, other *cluster.Pod, state *cluster.State) bool {
	if a := pod.Affinity; a != nil && (state.MatchesAll(a.Required, other) || state.MatchesAny(a.RequiredAnti, other)) {
		return true
	}
	return other.Affinity != nil && state.MatchesAny(other.Affinity.RequiredAnti, pod)
}

// place is a part of a topology: a label that all its Nodes have.
type place struct{ key, value string }

// places counts terms that hold somewhere; a zero count is never stored.
type places map[place]int

func (p places) add(key string, node *cluster.Node, n int) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	at := place{key, value}
	if p[at] += n; p[at] == 0 {
		delete(p, at)
	}
}

func (p places) has(key string, node *cluster.Node) bool {
	value, ok := node.Labels[key]
	return ok && p[place{key, value}] > 0
}

type affinity struct {
	pod            *cluster.Pod
	state          *cluster.State
	required, anti []fwk.AffinityTerm
	near           places // of Pods that all required terms mean
	far            places // of Pods that an anti-affinity term means
	shunned        places // where Pods are whose anti-affinity means this Pod
}

// Explain implements Check.
func (c *affinity) Explain(node *cluster.Node) []Reason {
	if !c.satisfied(node) {
		return []Reason{{Text: "node(s) didn't match pod affinity rules", Distant: true}}
	}
	if len(c.far) > 0 {
		for i := range c.anti {
			if c.far.has(c.anti[i].TopologyKey, node) {
				return []Reason{{Text: "node(s) didn't match pod anti-affinity rules", Evictable: true, Distant: true}}
			}
		}
	}
	if len(c.shunned) > 0 {
		for key, value := range node.Labels {
			if c.shunned[place{key, value}] > 0 {
				return []Reason{{Text: "node(s) didn't satisfy existing pods anti-affinity rules", Evictable: true, Distant: true}}
			}
		}
	}
	return nil
}

func (c *affinity) satisfied(node *cluster.Node) bool {
	all := true
	for i := range c.required {
		key := c.required[i].TopologyKey
		if _, ok := node.Labels[key]; !ok {
			return false
		}
		all = all && c.near.has(key, node)
	}
	// The first of a group of Pods that want to be together has nobody to be with yet.
	return all || len(c.near) == 0 && c.state.MatchesAll(c.required, c.pod)
}

// Count implements Counter.
func (c *affinity) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	c.countShunned(other, node, sign)
	c.countOwn(other, node, sign)
}

func (c *affinity) countShunned(other *cluster.Pod, node *cluster.Node, sign int) {
	if other.Affinity == nil {
		return
	}
	for i := range other.Affinity.RequiredAnti {
		if term := &other.Affinity.RequiredAnti[i]; c.state.Matches(term, c.pod) {
			c.shunned.add(term.TopologyKey, node, sign)
		}
	}
}

func (c *affinity) countOwn(other *cluster.Pod, node *cluster.Node, sign int) {
	if c.state.MatchesAll(c.required, other) {
		for i := range c.required {
			c.near.add(c.required[i].TopologyKey, node, sign)
		}
	}
	for i := range c.anti {
		if c.state.Matches(&c.anti[i], other) {
			c.far.add(c.anti[i].TopologyKey, node, sign)
		}
	}
}
