package filter

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// NodeAffinity keeps a Pod to Nodes that its node selector and its required node affinity match.
type NodeAffinity struct{}

// Explain implements Rule.
func (NodeAffinity) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	// A term that cannot be parsed matches nothing, as upstream has it for compatibility.
	if ok, _ := pod.Required.Match(node.Node); ok {
		return nil
	}
	return []Reason{{Text: "node(s) didn't match Pod's node affinity/selector"}}
}

// AffinityNames is upstream's short cut for required node affinity by name, as for the Pods of a DaemonSet: Nodes of another name
// are not looked at further, and have a reason of their own.
type AffinityNames struct{}

// Explain implements Rule.
func (AffinityNames) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	admits := func(term v1.NodeSelectorTerm) bool {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == v1.NodeSelectorOpIn && !slices.Contains(field.Values, node.Name) {
				return false
			}
		}
		return true
	}
	if len(terms) == 0 || slices.ContainsFunc(terms, admits) {
		return nil
	}
	return []Reason{{Text: "node(s) didn't satisfy plugin(s) [NodeAffinity]"}}
}
