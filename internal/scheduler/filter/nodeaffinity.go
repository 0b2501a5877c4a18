package filter

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// NodeAffinity keeps a Pod to Nodes that its node selector and its required node affinity match.
type NodeAffinity struct{}

// Prepare implements Rule.
func (NodeAffinity) Prepare(pod *cluster.Pod, _ *cluster.State) Check {
	if len(pod.Spec.NodeSelector) == 0 && requiredTerms(pod) == nil {
		return nil
	}
	return forPod{pod, matchNode}
}

func matchNode(pod *cluster.Pod, node *cluster.Node) []Reason {
	// A term that cannot be parsed matches nothing, as upstream has it for compatibility.
	if ok, _ := pod.Required.Match(node.Node); ok {
		return nil
	}
	return []Reason{{Text: "node(s) didn't match Pod's node affinity/selector"}}
}

func requiredTerms(pod *cluster.Pod) *v1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// AffinityNames is upstream's short cut for required node affinity by name, as for the Pods of a DaemonSet: Nodes of another name
// are not looked at further, and have a reason of their own.
type AffinityNames struct{}

// Prepare implements Rule.
func (AffinityNames) Prepare(pod *cluster.Pod, _ *cluster.State) Check {
	if required := requiredTerms(pod); required == nil || len(required.NodeSelectorTerms) == 0 {
		return nil
	}
	return forPod{pod, named}
}

func named(pod *cluster.Pod, node *cluster.Node) []Reason {
	admits := func(term v1.NodeSelectorTerm) bool {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == v1.NodeSelectorOpIn && !slices.Contains(field.Values, node.Name) {
				return false
			}
		}
		return true
	}
	if slices.ContainsFunc(requiredTerms(pod).NodeSelectorTerms, admits) {
		return nil
	}
	return []Reason{{Text: "node(s) didn't satisfy plugin(s) [NodeAffinity]"}}
}
