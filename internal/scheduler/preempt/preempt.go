// Package preempt finds the Pods that have to go so that a more important one fits, with upstream's order of choice
// (pkg/scheduler/framework/preemption, plugins/defaultpreemption).
//
// It is pure: it tries evictions out on the picture of the cluster, and leaves it as it was.
package preempt

import (
	"cmp"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
)

// noVictims is upstream's text for a Node whose Pods are all too important.
const noVictims = "No preemption victims found for incoming pod"

// Plan is an eviction that makes room.
type Plan struct {
	Node *cluster.Node
	// Victims are sorted, the most important first. There is at least one.
	Victims []*cluster.Pod
	// Violations is how many of them a PodDisruptionBudget would have protected.
	Violations int
}

// Find returns the plan that does the least harm among those for nodes, of which it looks at as many as it takes to have enough plans.
// When there is none, it returns for how many of the nodes each reason holds.
func Find(checks *filter.Checks, nodes []*cluster.Node, enough int, budgets []*policyv1.PodDisruptionBudget) (*Plan, map[string]int) {
	parsed := budgetsOf(budgets)
	var harmless, harmful []*Plan
	refused := map[string]int{}
	for _, node := range nodes {
		plan, reasons := try(checks, node, parsed)
		for _, reason := range reasons {
			refused[reason]++
		}
		switch {
		case plan == nil:
		case plan.Violations == 0:
			harmless = append(harmless, plan)
		default:
			harmful = append(harmful, plan)
		}
		if len(harmless) > 0 && len(harmless)+len(harmful) >= enough {
			break
		}
	}
	if plans := append(harmless, harmful...); len(plans) > 0 {
		return slices.MinFunc(plans, compare), nil
	}
	return nil, refused
}

// try returns the smallest eviction on a Node that lets the Pod of checks fit there, or why there is none.
func try(checks *filter.Checks, node *cluster.Node, budgets []budget) (*Plan, []string) {
	var candidates []*cluster.Pod
	for p := range node.Pods() {
		if p.Priority < checks.Pod.Priority {
			candidates = append(candidates, p)
		}
	}
	if len(candidates) == 0 {
		return nil, []string{noVictims}
	}
	slices.SortFunc(candidates, moreImportant)
	leave := func(p *cluster.Pod) {
		node.Remove(p)
		checks.Count(p, node, -1)
	}
	stay := func(p *cluster.Pod) {
		node.Add(p)
		checks.Count(p, node, 1)
	}
	for _, p := range candidates {
		leave(p)
	}
	if reasons := checks.Explain(node); len(reasons) > 0 {
		for _, p := range candidates {
			stay(p)
		}
		var texts []string
		for _, r := range reasons {
			texts = append(texts, r.Text)
		}
		return nil, texts
	}
	// Spare as many as possible: first those that a budget protects, the most important ones first.
	plan := &Plan{Node: node}
	spare := func(pods []*cluster.Pod) {
		for _, p := range pods {
			if stay(p); len(checks.Explain(node)) > 0 {
				leave(p)
				plan.Victims = append(plan.Victims, p)
			}
		}
	}
	breaking, others := split(candidates, budgets)
	spare(breaking)
	plan.Violations = len(plan.Victims)
	spare(others)
	slices.SortFunc(plan.Victims, moreImportant)
	for _, p := range plan.Victims {
		stay(p)
	}
	if len(plan.Victims) == 0 {
		return nil, []string{noVictims} // it fits by now
	}
	return plan, nil
}

// moreImportant orders Pods: the higher priority first, then the one that has run longer. The name makes the order a total one.
func moreImportant(a, b *cluster.Pod) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(started(a), started(b)),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// started is when a Pod began to run, as nanoseconds since 1970; one that has not is taken to begin last.
func started(p *cluster.Pod) int64 {
	if p.Status.StartTime == nil {
		return math.MaxInt64
	}
	return p.Status.StartTime.UnixNano()
}

// compare orders plans by the harm that they do.
func compare(a, b *Plan) int {
	return cmp.Or(
		cmp.Compare(a.Violations, b.Violations),
		cmp.Compare(a.Victims[0].Priority, b.Victims[0].Priority),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.Victims), len(b.Victims)),
		// Of the most important victims, the one that has run longest should have run as short as possible.
		cmp.Compare(started(b.Victims[0]), started(a.Victims[0])),
	)
}

// sum adds up the priorities, all lifted above zero so that few Pods of a negative priority are less than many.
func (p *Plan) sum() (sum int64) {
	for _, v := range p.Victims {
		sum += int64(v.Priority) + math.MaxInt32 + 1
	}
	return sum
}

// Possible reports whether the eviction of Pods could be of use to pod on a Node.
func Possible(pod *cluster.Pod, node *cluster.Node) bool {
	if never(pod) {
		return false
	}
	for p := range node.Pods() {
		if p.Priority < pod.Priority {
			return true
		}
	}
	return false
}

// Eligible returns "" when pod may have others evicted, else upstream's words for why not. nominated is the Node where room is being made
// for it, nil when there is none, or when it does not suit the Pod any more.
func Eligible(pod *cluster.Pod, nominated *cluster.Node) string {
	if never(pod) {
		return "not eligible due to preemptionPolicy=Never."
	}
	if nominated != nil && waiting(pod, nominated) {
		return "not eligible due to a terminating pod on the nominated node."
	}
	return ""
}

func never(pod *cluster.Pod) bool {
	return pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == v1.PreemptNever
}

// waiting reports whether victims of an earlier plan of pod are still on their way out of a Node.
func waiting(pod *cluster.Pod, node *cluster.Node) bool {
	for p := range node.Pods() {
		if p.Priority < pod.Priority && preempted(p) {
			return true
		}
	}
	return false
}

func preempted(p *cluster.Pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
	})
}
