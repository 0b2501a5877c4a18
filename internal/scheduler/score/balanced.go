package score

import (
	"fmt"
	"math"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// BalancedAllocation prefers Nodes whose use of cpu and of memory comes closer together with the Pod.
type BalancedAllocation struct{}

// Name implements Rule.
func (BalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

// Weight implements Rule.
func (BalancedAllocation) Weight() int64 { return 1 }

// Score implements Rule.
func (BalancedAllocation) Score(pod *cluster.Pod, nodes []*cluster.Node) []int64 {
	return each(nodes, func(n *cluster.Node) int64 { return balance(pod, n) })
}

// Explain implements Rule.
func (BalancedAllocation) Explain(pod *cluster.Pod, node *cluster.Node) string {
	return fmt.Sprintf("balance of cpu and memory %d", balance(pod, node))
}

// balance is 75 for a Pod that leaves the balance as it is, up to 100 for one that restores it, down to 50 for one that upsets it.
func balance(pod *cluster.Pod, node *cluster.Node) int64 {
	var before, after []float64
	asks := false
	for _, name := range compared() {
		want := pod.Requests[name]
		asks = asks || want > 0
		if capacity := node.Allocatable[name]; capacity > 0 {
			before = append(before, min(1, float64(node.Requested[name])/float64(capacity)))
			after = append(after, min(1, float64(node.Requested[name]+want)/float64(capacity)))
		}
	}
	if !asks {
		// Pods that request nothing would all go to the same Node (kubernetes/kubernetes#129138).
		return 0
	}
	return Max/2 + (Max/2+evenness(after)-evenness(before))/2
}

// evenness is Max when all shares are alike; the standard deviation of them is taken off.
func evenness(shares []float64) int64 {
	deviation := 0.0
	if len(shares) == 2 {
		deviation = math.Abs(shares[0]-shares[1]) / 2
	}
	return int64((1 - deviation) * Max)
}
