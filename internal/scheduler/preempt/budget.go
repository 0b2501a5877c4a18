package preempt

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// budget is a PodDisruptionBudget with its selector parsed.
type budget struct {
	*policyv1.PodDisruptionBudget
	selector labels.Selector
}

// budgetsOf leaves out budgets that mean no Pod: those with an empty selector or one that cannot be parsed.
func budgetsOf(list []*policyv1.PodDisruptionBudget) []budget {
	var budgets []budget
	for _, b := range list {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && !selector.Empty() {
			budgets = append(budgets, budget{b, selector})
		}
	}
	return budgets
}

// split parts Pods, the most important first, into those whose end would break a budget, as each one before has used it up, and the others.
func split(pods []*cluster.Pod, budgets []budget) (breaking, others []*cluster.Pod) {
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
	}
	breaks := func(pod *cluster.Pod) bool {
		for i, b := range budgets {
			if b.Namespace != pod.Namespace || len(pod.Labels) == 0 || !b.selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[pod.Name]; counted {
				continue // the API server has taken it off already
			}
			if allowed[i]--; allowed[i] < 0 {
				return true
			}
		}
		return false
	}
	for _, pod := range pods {
		if breaks(pod) {
			breaking = append(breaking, pod)
		} else {
			others = append(others, pod)
		}
	}
	return breaking, others
}
