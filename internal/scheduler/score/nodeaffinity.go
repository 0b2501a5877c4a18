package score

import (
	"fmt"

	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// NodeAffinity prefers Nodes that match the Pod's preferred node affinity, by the weights of the terms.
type NodeAffinity struct{}

// Name implements Rule.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// Weight implements Rule.
func (NodeAffinity) Weight() int64 { return 2 }

// Prepare implements Rule.
func (NodeAffinity) Prepare(pod *cluster.Pod, _ *cluster.State) Preference {
	if pod.Preferred == nil {
		return nil
	}
	return preferredTerms{pod.Preferred}
}

type preferredTerms struct {
	terms *nodeaffinity.PreferredSchedulingTerms
}

// Score implements Preference.
func (p preferredTerms) Score(nodes []*cluster.Node) []int64 {
	return normalize(each(nodes, func(n *cluster.Node) int64 { return p.terms.Score(n.Node) }), false)
}

// Explain implements Preference.
func (p preferredTerms) Explain(node *cluster.Node) string {
	return fmt.Sprintf("preferred terms of weight %d match", p.terms.Score(node.Node))
}
