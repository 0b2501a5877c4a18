package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
	"peapod.dev/peapod/internal/scheduler/score"
)

// errNoNodes is upstream's text for a cluster without Nodes.
var errNoNodes = errors.New("no nodes available to schedule pods")

// fitError says why a Pod fits on no Node.
type fitError struct {
	nodes   int            // all Nodes
	reasons map[string]int // how many Nodes each reason holds for
	preempt string         // what preemption had to say
}

// Error returns the text that users see in the Pod's condition and event; upstream's to the letter
// (pkg/scheduler/framework/types.go, FitError).
func (e *fitError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("0/%d nodes are available: %s. %s", e.nodes, histogram(e.reasons), e.preempt), " ")
}

// histogram lists counted reasons in upstream's order.
func histogram(reasons map[string]int) string {
	var lines []string
	for reason, count := range reasons {
		lines = append(lines, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

// findNode chooses the Node for a Pod: of those that all filters let pass, the one with the best score. The error is errNoNodes or a
// *fitError. It is pure.
func findNode(filters filter.Rules, scores score.Rules, state *cluster.State, pod *cluster.Pod) (*cluster.Node, error) {
	if state.Len() == 0 {
		return nil, errNoNodes
	}
	var fitting []*cluster.Node
	rejected := map[string]int{}
	evictable := 0
	for node := range state.Nodes() {
		reasons := filters.Explain(pod, node)
		if len(reasons) == 0 {
			fitting = append(fitting, node)
			continue
		}
		for _, reason := range reasons {
			rejected[reason.Text]++
		}
		if reasons[0].Evictable {
			evictable++
		}
	}
	switch len(fitting) {
	case 0:
		return nil, &fitError{nodes: state.Len(), reasons: rejected, preempt: preemption(pod.Pod, state.Len(), evictable)}
	case 1:
		return fitting[0], nil
	}
	total := scores.Score(pod, fitting)
	best := 0
	for i := 1; i < len(fitting); i++ {
		if total[i] > total[best] || total[i] == total[best] && emptier(fitting[i], fitting[best]) {
			best = i
		}
	}
	return fitting[best], nil
}

// emptier decides between Nodes of the same score: upstream throws dice, we spread and stay reproducible.
func emptier(a, b *cluster.Node) bool {
	if a.Pods() != b.Pods() {
		return a.Pods() < b.Pods()
	}
	return a.Name < b.Name
}

// preemption says in upstream's words that no Pod of a lower priority makes room: nodes is how many there are, evictable on how many
// of them an eviction could help.
func preemption(pod *v1.Pod, nodes, evictable int) string {
	if p := pod.Spec.PreemptionPolicy; p != nil && *p == v1.PreemptNever {
		return "preemption: not eligible due to preemptionPolicy=Never."
	}
	reasons := map[string]int{}
	if evictable > 0 {
		reasons["No preemption victims found for incoming pod"] = evictable
	}
	if evictable < nodes {
		reasons["Preemption is not helpful for scheduling"] = nodes - evictable
	}
	return fmt.Sprintf("preemption: 0/%d nodes are available: %s.", nodes, histogram(reasons))
}
