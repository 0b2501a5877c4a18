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

// Prepare implements Rule.
func (BalancedAllocation) Prepare(pod *cluster.Pod, _ *cluster.State) Preference {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		// Pods that request nothing would all go to the same Node (kubernetes/kubernetes#129138).
		return nil
	}
	return evenUse{pod}
}

type evenUse struct{ pod *cluster.Pod }

// Score implements Preference.
func (p evenUse) Score(nodes []*cluster.Node) []int64 { return each(nodes, p.balance) }

// Explain implements Preference.
func (p evenUse) Explain(node *cluster.Node) string {
	return fmt.Sprintf("balance of cpu and memory %d", p.balance(node))
}

// balance is 75 for a Pod that leaves the balance as it is, up to 100 for one that restores it, down to 50 for one that upsets it.
func (p evenUse) balance(node *cluster.Node) int64 {
	want, has, used := &p.pod.Requests, &node.Allocatable, &node.Requested
	before, after := int64(Max), int64(Max)
	if has.MilliCPU > 0 && has.Memory > 0 { // a single resource is always in balance
		before = evenness(share(used.MilliCPU, has.MilliCPU), share(used.Memory, has.Memory))
		after = evenness(share(used.MilliCPU+want.MilliCPU, has.MilliCPU), share(used.Memory+want.Memory, has.Memory))
	}
	return Max/2 + (Max/2+after-before)/2
}

func share(used, has int64) float64 { return min(1, float64(used)/float64(has)) }

// evenness is Max when both shares are alike; the standard deviation of them is taken off.
func evenness(a, b float64) int64 { return int64((1 - math.Abs(a-b)/2) * Max) }
