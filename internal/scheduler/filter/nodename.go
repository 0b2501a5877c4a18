package filter

import "peapod.dev/peapod/internal/scheduler/cluster"

// NodeName keeps a Pod that names its Node to that Node.
type NodeName struct{}

// Prepare implements Rule.
func (NodeName) Prepare(pod *cluster.Pod, _ *cluster.State) Check {
	if pod.Spec.NodeName == "" {
		return nil
	}
	return forPod{pod, rightName}
}

func rightName(pod *cluster.Pod, node *cluster.Node) []Reason {
	if pod.Spec.NodeName == node.Name {
		return nil
	}
	return []Reason{{Text: "node(s) didn't match the requested node name"}}
}
