package filter

import "peapod.dev/peapod/internal/scheduler/cluster"

// NodeName keeps a Pod that names its Node to that Node.
type NodeName struct{}

// Explain implements Rule.
func (NodeName) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	if want := pod.Spec.NodeName; want == "" || want == node.Name {
		return nil
	}
	return []Reason{{Text: "node(s) didn't match the requested node name"}}
}
