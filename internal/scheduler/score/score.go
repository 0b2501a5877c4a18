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
	// Score returns a score from 0 to Max for each Node, in their order.
	Score(pod *cluster.Pod, nodes []*cluster.Node) []int64
	// Explain says in a few words what the score of a Node rests on.
	Explain(pod *cluster.Pod, node *cluster.Node) string
}

// Rules is a list of rules whose weighted scores are added up.
type Rules []Rule

// Default returns all the rules.
func Default() Rules {
	return Rules{Taints{}, NodeAffinity{}, LeastAllocated{}, BalancedAllocation{}}
}

// Score returns the sum of the weighted scores for each Node, in their order.
func (rules Rules) Score(pod *cluster.Pod, nodes []*cluster.Node) []int64 {
	total := make([]int64, len(nodes))
	for _, rule := range rules {
		for i, s := range rule.Score(pod, nodes) {
			total[i] += rule.Weight() * s
		}
	}
	return total
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
