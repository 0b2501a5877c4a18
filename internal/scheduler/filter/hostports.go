package filter

import (
	"slices"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// HostPorts keeps two Pods from wanting the same port of one Node.
type HostPorts struct{}

// Prepare implements Rule.
func (HostPorts) Prepare(pod *cluster.Pod, _ *cluster.State) Check {
	if len(pod.Ports) == 0 {
		return nil
	}
	return forPod{pod, freePorts}
}

func freePorts(pod *cluster.Pod, node *cluster.Node) []Reason {
	if !slices.ContainsFunc(pod.Ports, node.Taken) {
		return nil
	}
	return []Reason{{Text: "node(s) didn't have free ports for the requested pod ports", Evictable: true}}
}
