package score

import (
	"fmt"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// LeastAllocated prefers Nodes with the greater share of cpu and memory left.
type LeastAllocated struct{}

// Name implements Rule.
func (LeastAllocated) Name() string { return "NodeResourcesFit" }

// Weight implements Rule.
func (LeastAllocated) Weight() int64 { return 1 }

// Prepare implements Rule.
func (LeastAllocated) Prepare(pod *cluster.Pod, _ *cluster.State) Preference { return muchLeft{pod} }

type muchLeft struct{ pod *cluster.Pod }

// Score implements Preference.
func (p muchLeft) Score(nodes []*cluster.Node) []int64 { return each(nodes, p.leftover) }

// Explain implements Preference.
func (p muchLeft) Explain(node *cluster.Node) string {
	return fmt.Sprintf("%d%% of cpu and memory left", p.leftover(node))
}

func (p muchLeft) leftover(node *cluster.Node) int64 {
	want, has, used := &p.pod.Estimate, &node.Allocatable, &node.Estimate
	var sum, count int64
	compare := func(want, has, used int64) {
		if has == 0 {
			return
		}
		count++
		if used += want; used <= has {
			sum += (has - used) * Max / has
		}
	}
	compare(want.MilliCPU, has.MilliCPU, used.MilliCPU)
	compare(want.Memory, has.Memory, used.Memory)
	if count == 0 {
		return 0
	}
	return sum / count
}
