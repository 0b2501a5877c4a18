package filter

import (
	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Taints keeps Pods off Nodes whose NoSchedule and NoExecute taints they do not tolerate.
type Taints struct{}

// Explain implements Rule.
func (Taints) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, pod.Spec.Tolerations,
		func(t *v1.Taint) bool {
			return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
		}, false)
	if !untolerated {
		return nil
	}
	return []Reason{{Text: "node(s) had untolerated taint(s)"}}
}
