package filter

import (
	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Resources keeps the sum of requests on a Node within what the Node can give, for every resource and for the number of Pods.
type Resources struct{}

// Explain implements Rule. It names every resource that is short.
func (Resources) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	var reasons []Reason
	possible := true
	for name, want := range pod.Requests {
		if want <= node.Free(name) {
			continue
		}
		text := "Insufficient " + string(name)
		if name == v1.ResourcePods {
			text = "Too many pods"
		} else if want > node.Allocatable[name] {
			possible = false
		}
		reasons = append(reasons, Reason{Text: text})
	}
	for i := range reasons {
		// If even the empty Node is too small in one respect, no eviction helps.
		reasons[i].Evictable = possible
	}
	return reasons
}
