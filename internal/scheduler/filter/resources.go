package filter

import (
	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Resources keeps the sum of requests on a Node within what the Node can give, for every resource and for the number of Pods.
type Resources struct{}

// Prepare implements Rule.
func (Resources) Prepare(pod *cluster.Pod, _ *cluster.State) Check { return forPod{pod, enough} }

// enough names every resource that is short.
func enough(pod *cluster.Pod, node *cluster.Node) []Reason {
	want, has, used := &pod.Requests, &node.Allocatable, &node.Requested
	var reasons []Reason
	possible := true
	compare := func(text string, want, has, used int64) {
		if want <= 0 || want <= has-used {
			return
		}
		possible = possible && want <= has
		reasons = append(reasons, Reason{Text: text})
	}
	if has.Pods-used.Pods < want.Pods {
		reasons = append(reasons, Reason{Text: "Too many pods"})
	}
	compare("Insufficient cpu", want.MilliCPU, has.MilliCPU, used.MilliCPU)
	compare("Insufficient memory", want.Memory, has.Memory, used.Memory)
	compare("Insufficient ephemeral-storage", want.EphemeralStorage, has.EphemeralStorage, used.EphemeralStorage)
	for name, amount := range want.Others {
		compare("Insufficient "+string(name), amount, has.Others[name], used.Others[name])
	}
	for i := range reasons {
		// If even the empty Node is too small in one respect, no eviction helps.
		reasons[i].Evictable = possible
	}
	return reasons
}
