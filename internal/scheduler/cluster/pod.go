package cluster

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Pod is a Pod with what the rules ask about it worked out once. It is immutable.
type Pod struct {
	*v1.Pod
	Priority int32
	Requests Resources
	// Estimate is Requests with upstream's guess for containers that request nothing; cpu and memory only.
	Estimate Resources
	Ports    []HostPort
	// Affinity is nil when the Pod has no terms about other Pods.
	Affinity *Affinity

	// What follows matters as long as the Pod has no Node.

	// Required is the node selector and the required node affinity together.
	Required nodeaffinity.RequiredNodeAffinity
	// Preferred is nil when the Pod prefers no Node.
	Preferred *nodeaffinity.PreferredSchedulingTerms
	Spread    []Spread
	Images    []string
}

// NewPod works out what the rules need. The Pod must not be changed afterwards.
func NewPod(pod *v1.Pod) *Pod {
	p := &Pod{
		Pod: pod, Priority: corev1helpers.PodPriority(pod), Requests: requestsOf(pod), Estimate: estimateOf(pod),
		Ports: hostPorts(pod), Affinity: affinityOf(pod),
	}
	if pod.Spec.NodeName != "" {
		return p
	}
	p.Required = nodeaffinity.GetRequiredNodeAffinity(pod)
	p.Spread, p.Images = spreadOf(pod), imagesOf(pod)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		// The API server's validation lets no term through that cannot be parsed; were there one, it would prefer nothing.
		p.Preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return p
}

// Alike reports whether every rule says the same about both, as for the Pods of one template.
func (p *Pod) Alike(other *Pod) bool {
	a, b := &p.Spec, &other.Spec
	return p.Namespace == other.Namespace && p.Priority == other.Priority && a.NodeName == b.NodeName &&
		p.Requests.Equal(&other.Requests) && p.Estimate.Equal(&other.Estimate) &&
		maps.Equal(p.Labels, other.Labels) && maps.Equal(a.NodeSelector, b.NodeSelector) &&
		slices.Equal(p.Ports, other.Ports) && slices.Equal(p.Images, other.Images) &&
		equality.Semantic.DeepEqual(a.Tolerations, b.Tolerations) &&
		equality.Semantic.DeepEqual(a.TopologySpreadConstraints, b.TopologySpreadConstraints) &&
		equality.Semantic.DeepEqual(a.Affinity, b.Affinity)
}
