package score

import (
	"fmt"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// NodeAffinity prefers Nodes that match the Pod's preferred node affinity, by the weights of the terms.
type NodeAffinity struct{}

// Name implements Rule.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// Weight implements Rule.
func (NodeAffinity) Weight() int64 { return 2 }

// Score implements Rule.
func (NodeAffinity) Score(pod *cluster.Pod, nodes []*cluster.Node) []int64 {
	return normalize(each(nodes, func(n *cluster.Node) int64 { return preference(pod, n) }), false)
}

// Explain implements Rule.
func (NodeAffinity) Explain(pod *cluster.Pod, node *cluster.Node) string {
	return fmt.Sprintf("preferred terms of weight %d match", preference(pod, node))
}

func preference(pod *cluster.Pod, node *cluster.Node) int64 {
	if pod.Preferred == nil {
		return 0
	}
	return pod.Preferred.Score(node.Node)
}
