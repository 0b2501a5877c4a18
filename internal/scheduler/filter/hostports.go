package filter

import (
	"slices"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// HostPorts keeps two Pods from wanting the same port of one Node.
type HostPorts struct{}

// Explain implements Rule.
func (HostPorts) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	if !slices.ContainsFunc(pod.Ports, node.Taken) {
		return nil
	}
	return []Reason{{Text: "node(s) didn't have free ports for the requested pod ports", Evictable: true}}
}
