package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
)

// errNoNodes is upstream's text for a cluster without Nodes.
var errNoNodes = errors.New("no nodes available to schedule pods")

// fitError says why a Pod fits on no Node.
type fitError struct {
	nodes     int             // all Nodes
	reasons   map[string]int  // how many Nodes each reason holds for
	evictable []*cluster.Node // where an eviction may help
	distant   bool            // what happens on other Nodes may help
	preempt   string          // what preemption had to say
}

func (e *fitError) add(node *cluster.Node, reasons []filter.Reason) {
	for _, reason := range reasons {
		e.reasons[reason.Text]++
		e.distant = e.distant || reason.Distant
	}
	if reasons[0].Evictable {
		e.evictable = append(e.evictable, node)
	}
}

// Error returns the text that users see in the Pod's condition and event; upstream's to the letter
// (pkg/scheduler/framework/types.go, FitError).
func (e *fitError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s", unavailable(e.nodes, e.reasons), e.preempt), " ")
}

func unavailable(nodes int, reasons map[string]int) string {
	var lines []string
	for reason, count := range reasons {
		lines = append(lines, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}
