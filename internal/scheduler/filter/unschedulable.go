package filter

import (
	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Unschedulable keeps Pods off a cordoned Node, save those that tolerate the taint of that name.
type Unschedulable struct{}

// Prepare implements Rule.
func (Unschedulable) Prepare(pod *cluster.Pod, _ *cluster.State) Check { return forPod{pod, open} }

func open(pod *cluster.Pod, node *cluster.Node) []Reason {
	if !node.Spec.Unschedulable {
		return nil
	}
	cordon := v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(logr.Discard(), pod.Spec.Tolerations, &cordon, false) {
		return nil
	}
	return []Reason{{Text: "node(s) were unschedulable"}}
}
