package filter

import (
	"peapod.dev/peapod/internal/scheduler/cluster"
)

// TopologySpread keeps the number of a Pod's fellows in each part of a topology (a zone, a Node) within maxSkew of the part that has the
// fewest, for constraints that say DoNotSchedule.
type TopologySpread struct{}

const (
	skewed    = "node(s) didn't match pod topology spread constraints"
	unlabeled = skewed + " (missing required label)"
)

// Prepare implements Rule.
func (TopologySpread) Prepare(pod *cluster.Pod, state *cluster.State) Check {
	c := &spread{pod: pod}
	for i := range pod.Spread {
		if s := &pod.Spread[i]; s.Hard {
			c.topologies = append(c.topologies, &topology{Spread: s, counts: map[string]int{}})
		}
	}
	if len(c.topologies) == 0 {
		return nil
	}
	for _, node := range state.Nodes() {
		if !c.labeled(node) {
			continue
		}
		for _, t := range c.topologies {
			if t.Spread.Counts(pod, node) {
				t.add(node.Labels[t.Key], t.fellows(pod, node))
			}
		}
	}
	return c
}

// Helped implements Distant.
func (TopologySpread) Helped(pod, other *cluster.Pod, _ *cluster.State) bool {
	for i := range pod.Spread {
		// Whether other counts is not asked: it may be what has changed.
		if s := &pod.Spread[i]; s.Hard && other.Namespace == pod.Namespace && s.Selects(other) {
			return true
		}
	}
	return false
}

type spread struct {
	pod        *cluster.Pod
	topologies []*topology
}

// Explain implements Check.
func (c *spread) Explain(node *cluster.Node) []Reason {
	for _, t := range c.topologies {
		part, ok := node.Labels[t.Key]
		if !ok {
			return []Reason{{Text: unlabeled, Distant: true}}
		}
		least := 0
		if len(t.counts) >= int(t.MinDomains) {
			least = t.least()
		}
		count := t.counts[part]
		if t.Selects(c.pod) {
			count++
		}
		if count-least > int(t.MaxSkew) {
			return []Reason{{Text: skewed, Evictable: true, Distant: true}}
		}
	}
	return nil
}

// Count implements Counter.
func (c *spread) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	if other.Namespace != c.pod.Namespace || !c.labeled(node) {
		return
	}
	for _, t := range c.topologies {
		if t.Spreads(c.pod, other) && t.Spread.Counts(c.pod, node) {
			t.add(node.Labels[t.Key], sign)
		}
	}
}

// labeled reports whether a Node has a place in all the topologies.
func (c *spread) labeled(node *cluster.Node) bool {
	for _, t := range c.topologies {
		if _, ok := node.Labels[t.Key]; !ok {
			return false
		}
	}
	return true
}

// topology is how many Pods are in each part of a topology.
type topology struct {
	*cluster.Spread
	counts map[string]int
	levels []int // how many parts have as many Pods as the index says
	lowest int   // no part has fewer
}

func (t *topology) fellows(pod *cluster.Pod, node *cluster.Node) int {
	n := 0
	for other := range node.Pods() {
		if t.Spreads(pod, other) {
			n++
		}
	}
	return n
}

func (t *topology) add(part string, n int) {
	before, known := t.counts[part]
	after := before + n
	if known {
		t.levels[before]--
	}
	for len(t.levels) <= after {
		t.levels = append(t.levels, 0)
	}
	t.levels[after]++
	t.counts[part] = after
	t.lowest = min(t.lowest, after)
}

// least returns how many Pods are in the part that has the fewest.
func (t *topology) least() int {
	for t.lowest < len(t.levels) && t.levels[t.lowest] == 0 {
		t.lowest++
	}
	return t.lowest
}
