package cluster

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Pod is a Pod with what the rules ask about it worked out once. It is immutable.
type Pod struct {
	*v1.Pod
	Requests Resources
	// Estimate is Requests with upstream's guess for containers that request nothing; cpu and memory only.
	Estimate Resources
	Ports    []HostPort
	// Required is the node selector and the required node affinity together.
	Required nodeaffinity.RequiredNodeAffinity
	// Preferred is nil when the Pod prefers no Node.
	Preferred *nodeaffinity.PreferredSchedulingTerms
}

// NewPod works out what the rules need. The Pod must not be changed afterwards.
func NewPod(pod *v1.Pod) *Pod {
	p := &Pod{Pod: pod, Requests: requestsOf(pod), Estimate: estimateOf(pod), Ports: hostPorts(pod)}
	if pod.Spec.NodeName != "" {
		return p // it has its Node: nothing will be matched again
	}
	p.Required = nodeaffinity.GetRequiredNodeAffinity(pod)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		// The API server's validation lets no term through that cannot be parsed; were there one, it would prefer nothing.
		p.Preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return p
}
