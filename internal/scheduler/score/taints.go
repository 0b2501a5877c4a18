package score

import (
	"fmt"

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

// Prepare implements Rule.
func (Taints) Prepare(pod *cluster.Pod, _ *cluster.State) Preference { return fewTaints{pod} }

type fewTaints struct{ pod *cluster.Pod }

// Score implements Preference.
func (p fewTaints) Score(nodes []*cluster.Node) []int64 {
	return normalize(each(nodes, p.untolerated), true)
}

// Explain implements Preference.
func (p fewTaints) Explain(node *cluster.Node) string {
	return fmt.Sprintf("%d untolerated PreferNoSchedule taints", p.untolerated(node))
}

func (p fewTaints) untolerated(node *cluster.Node) (n int64) {
	for i := range node.Spec.Taints {
		// Only tolerations of all effects or of this one count, which ToleratesTaint sees to.
		if t := &node.Spec.Taints[i]; t.Effect == v1.TaintEffectPreferNoSchedule &&
			!corev1helpers.TolerationsTolerateTaint(logr.Discard(), p.pod.Spec.Tolerations, t, false) {
			n++
		}
	}
	return n
}
