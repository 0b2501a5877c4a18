package score

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// compared returns the resources by which Nodes are compared.
func compared() []v1.ResourceName { return []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} }

// LeastAllocated prefers Nodes with the greater share of cpu and memory left.
type LeastAllocated struct{}

// Name implements Rule.
func (LeastAllocated) Name() string { return "NodeResourcesFit" }

// Weight implements Rule.
func (LeastAllocated) Weight() int64 { return 1 }

// Score implements Rule.
func (LeastAllocated) Score(pod *cluster.Pod, nodes []*cluster.Node) []int64 {
	return each(nodes, func(n *cluster.Node) int64 { return leftover(pod, n) })
}

// Explain implements Rule.
func (LeastAllocated) Explain(pod *cluster.Pod, node *cluster.Node) string {
	return fmt.Sprintf("%d%% of cpu and memory left", leftover(pod, node))
}

func leftover(pod *cluster.Pod, node *cluster.Node) int64 {
	var sum, count int64
	for _, name := range compared() {
		capacity := node.Allocatable[name]
		if capacity == 0 {
			continue
		}
		count++
		if used := node.Estimate[name] + pod.Estimate[name]; used <= capacity {
			sum += (capacity - used) * Max / capacity
		}
	}
	if count == 0 {
		return 0
	}
	return sum / count
}
