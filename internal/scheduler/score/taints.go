package score

import (
	"fmt"
	"slices"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Taints prefers Nodes with few PreferNoSchedule taints that the Pod does not tolerate.
type Taints struct{}

// Name implements Rule.
func (Taints) Name() string { return "TaintToleration" }

// Weight implements Rule.
func (Taints) Weight() int64 { return 3 }

// Score implements Rule.
func (Taints) Score(pod *cluster.Pod, nodes []*cluster.Node) []int64 {
	return normalize(each(nodes, func(n *cluster.Node) int64 { return untolerated(pod, n) }), true)
}

// Explain implements Rule.
func (Taints) Explain(pod *cluster.Pod, node *cluster.Node) string {
	return fmt.Sprintf("%d untolerated PreferNoSchedule taints", untolerated(pod, node))
}

func untolerated(pod *cluster.Pod, node *cluster.Node) int64 {
	// Only tolerations of all effects or of this one count, which ToleratesTaint sees to.
	taints := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t v1.Taint) bool {
		return t.Effect != v1.TaintEffectPreferNoSchedule ||
			corev1helpers.TolerationsTolerateTaint(logr.Discard(), pod.Spec.Tolerations, &t, false)
	})
	return int64(len(taints))
}
