package nodelifecycle

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditionTaint returns the key of the taint that goes with a condition; "" when none does.
func conditionTaint(c v1.NodeCondition) string {
	switch {
	case c.Type == v1.NodeReady && c.Status == v1.ConditionFalse:
		return v1.TaintNodeNotReady
	case c.Type == v1.NodeReady && c.Status == v1.ConditionUnknown:
		return v1.TaintNodeUnreachable
	case c.Status != v1.ConditionTrue:
		return ""
	case c.Type == v1.NodeMemoryPressure:
		return v1.TaintNodeMemoryPressure
	case c.Type == v1.NodeDiskPressure:
		return v1.TaintNodeDiskPressure
	case c.Type == v1.NodePIDPressure:
		return v1.TaintNodePIDPressure
	case c.Type == v1.NodeNetworkUnavailable:
		return v1.TaintNodeNetworkUnavailable
	}
	return ""
}

// ours reports whether a taint is this controller's to add and take away.
func ours(t v1.Taint) bool {
	switch t.Key {
	case v1.TaintNodeNotReady, v1.TaintNodeUnreachable:
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	case v1.TaintNodeMemoryPressure, v1.TaintNodeDiskPressure, v1.TaintNodePIDPressure,
		v1.TaintNodeNetworkUnavailable, v1.TaintNodeUnschedulable:
		return t.Effect == v1.TaintEffectNoSchedule
	}
	return false
}

// taints returns the taints that the Node is to have: those of others as they are; NoSchedule for each bad condition and for a cordoned
// Node; and, where eviction makes sense, NoExecute for a Node that is not ready.
func taints(node *v1.Node, evict bool, now metav1.Time) []v1.Taint {
	var want []v1.Taint
	add := func(key string, effect v1.TaintEffect) {
		want = append(want, v1.Taint{Key: key, Effect: effect, TimeAdded: &now})
	}
	for _, c := range node.Status.Conditions {
		key := conditionTaint(c)
		if key == "" {
			continue
		}
		add(key, v1.TaintEffectNoSchedule)
		if c.Type == v1.NodeReady && evict {
			add(key, v1.TaintEffectNoExecute)
		}
	}
	if node.Spec.Unschedulable {
		add(v1.TaintNodeUnschedulable, v1.TaintEffectNoSchedule)
	}
	var result []v1.Taint
	for _, t := range node.Spec.Taints {
		same := func(w v1.Taint) bool { return w.MatchTaint(&t) }
		if !ours(t) || slices.ContainsFunc(want, same) {
			result = append(result, t)
			want = slices.DeleteFunc(want, same)
		}
	}
	return append(result, want...)
}
