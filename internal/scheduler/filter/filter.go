// Package filter says whether a Pod may run on a Node, a file a rule, and explains why not in upstream's words.
//
// Rules are pure: the same Pod and Node give the same answer; nothing is read, written or logged.
package filter

import "peapod.dev/peapod/internal/scheduler/cluster"

// Reason is one cause why a Pod does not fit a Node.
type Reason struct {
	// Text is upstream's wording, without the count of Nodes in front.
	Text string
	// Evictable reports whether the Pod could fit if other Pods left the Node.
	Evictable bool
}

// Rule is one condition on a Pod and a Node.
type Rule interface {
	// Explain returns why pod may not run on node; nothing when it may.
	Explain(pod *cluster.Pod, node *cluster.Node) []Reason
}

// Rules is an ordered list of rules. The order is upstream's (pkg/scheduler/apis/config/v1/default_plugins.go) and decides which
// reason a user sees.
type Rules []Rule

// Default returns all the rules.
func Default() Rules {
	return Rules{
		AffinityNames{}, NodeName{}, Unschedulable{}, Taints{}, NodeAffinity{}, HostPorts{}, Resources{},
	}
}

// Explain returns the reasons of the first rule that objects, as upstream does; nothing when pod fits.
func (rules Rules) Explain(pod *cluster.Pod, node *cluster.Node) []Reason {
	for _, rule := range rules {
		if reasons := rule.Explain(pod, node); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}
