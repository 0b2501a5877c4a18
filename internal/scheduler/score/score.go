// Package score ranks the Nodes on which a Pod fits, a file a rule. The figures are upstream's.
//
// Rules are pure: nothing is read, written or logged.
package score

import (
	"slices"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Max is the best score a rule gives; the worst is 0.
const Max = 100

// Rule is one preference.
type Rule interface {
	// Name is upstream's name of the plugin.
	Name() string
	// Weight is what the score is multiplied with (pkg/scheduler/apis/config/v1/default_plugins.go).
	Weight() int64
	// Prepare works out once for a Pod what will be asked about every Node. It returns nil when all Nodes are alike to the rule.
	Prepare(pod *cluster.Pod, state *cluster.State) Preference
}

// Preference is a rule for one Pod.
type Preference interface {
	// Score returns a score from 0 to Max for each Node, in their order; nil when it prefers none of them.
	Score(nodes []*cluster.Node) []int64
	// Explain says in a few words what the score of a Node rests on.
	Explain(node *cluster.Node) string
}

// Counter is a preference that keeps counts of Pods and can be kept up to date.
type Counter interface {
	// Count takes note that other has come to node (1) or has left it (-1).
	Count(other *cluster.Pod, node *cluster.Node, sign int)
}

// Rules is a list of rules whose weighted scores are added up.
type Rules []Rule

// Default returns all the rules.
func Default() Rules {
	return Rules{Taints{}, NodeAffinity{}, LeastAllocated{}, TopologySpread{}, PodAffinity{}, BalancedAllocation{}, ImageLocality{}}
}

// Prepare prepares all the rules for a Pod.
func (rules Rules) Prepare(pod *cluster.Pod, state *cluster.State) *Preferences {
	p := &Preferences{}
	for _, rule := range rules {
		preference := rule.Prepare(pod, state)
		if preference == nil {
			continue
		}
		p.all = append(p.all, weighted{rule, preference})
		if counter, ok := preference.(Counter); ok {
			p.counters = append(p.counters, counter)
		}
	}
	return p
}

// Preferences are the rules for one Pod, or for others that are Alike. They hold as long as the cluster's Epoch does not change and every
// Pod that comes and goes is counted.
type Preferences struct {
	all      []weighted
	counters []Counter
}

type weighted struct {
	rule Rule
	Preference
}

// Count takes note that other has come to node (1) or has left it (-1).
func (p *Preferences) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	for _, counter := range p.counters {
		counter.Count(other, node, sign)
	}
}

// Score returns the sum of the weighted scores for each Node, in their order.
func (p *Preferences) Score(nodes []*cluster.Node) []int64 {
	total := make([]int64, len(nodes))
	for _, w := range p.all {
		weight := w.rule.Weight()
		for i, s := range w.Score(nodes) {
			total[i] += weight * s
		}
	}
	return total
}

// Explain yields what each preference says about a Node.
func (p *Preferences) Explain(node *cluster.Node) func(yield func(rule, why string) bool) {
	return func(yield func(rule, why string) bool) {
		for _, w := range p.all {
			if !yield(w.rule.Name(), w.Preference.Explain(node)) {
				return
			}
		}
	}
}

// normalize scales counts so that the greatest becomes Max; reverse makes the least the best.
func normalize(counts []int64, reverse bool) []int64 {
	most := slices.Max(counts)
	for i, c := range counts {
		if most > 0 {
			c = Max * c / most
		}
		if reverse {
			c = Max - c
		}
		counts[i] = c
	}
	return counts
}

func each(nodes []*cluster.Node, f func(*cluster.Node) int64) []int64 {
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		out[i] = f(n)
	}
	return out
}

// places sums up weights by parts of a topology: label key, then value.
type places map[string]map[string]int64

func (p places) add(key string, node *cluster.Node, weight int64) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	if p[key] == nil {
		p[key] = map[string]int64{}
	}
	p[key][value] += weight
}
