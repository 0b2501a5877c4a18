package filter

import "peapod.dev/peapod/internal/scheduler/cluster"

// Taints keeps Pods off Nodes whose NoSchedule and NoExecute taints they do not tolerate.
type Taints struct{}

// Prepare implements Rule.
func (Taints) Prepare(pod *cluster.Pod, _ *cluster.State) Check { return forPod{pod, tolerated} }

func tolerated(pod *cluster.Pod, node *cluster.Node) []Reason {
	if node.Tolerated(pod) {
		return nil
	}
	return []Reason{{Text: "node(s) had untolerated taint(s)"}}
}
