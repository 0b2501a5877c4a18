package scheduler

import (
	"fmt"
	"slices"

	policyv1 "k8s.io/api/policy/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
	"peapod.dev/peapod/internal/scheduler/preempt"
	"peapod.dev/peapod/internal/scheduler/score"
)

// How many Nodes are looked at in a large cluster (schedule_one.go): the search ends when it has found a share of all Nodes, in percent,
// on which the Pod fits. Preemption likewise ends when it has found enough Nodes.
const (
	fewNodes     = 100
	mostPercent  = 50
	lessForEach  = 125 // one percent less for each that many Nodes
	leastPercent = 5

	fewPlans     = 100
	plansPercent = 10
)

// maxPrepared is for how many kinds of Pods what the rules worked out is kept.
const maxPrepared = 16

// cycle makes decisions. It does no I/O and is not safe for concurrent use.
//
// What the rules work out for a Pod is kept, and kept up to date, for the next ones: Pods mostly come in crowds that are alike, and then
// a decision costs no look at Nodes beyond those that it chooses from.
type cycle struct {
	state   *cluster.State
	filters filter.Rules
	local   filter.Rules
	scores  score.Rules

	next  int         // the Node at which the next search begins, so that all have their turn
	kept  []*prepared // the last used first
	epoch int         // of the state, when they were prepared

	fitting []*cluster.Node // room for a list, used again for each Pod
}

// prepared are the rules for a kind of Pods.
type prepared struct {
	kind        *cluster.Pod
	checks      *filter.Checks
	preferences *score.Preferences
}

func newCycle(state *cluster.State) *cycle {
	c := &cycle{state: state, filters: filter.Default(), scores: score.Default()}
	c.local = c.filters.Local()
	state.Moved = func(pod *cluster.Pod, node *cluster.Node, sign int) {
		c.forget()
		for _, p := range c.kept {
			p.checks.Count(pod, node, sign)
			p.preferences.Count(pod, node, sign)
		}
	}
	return c
}

// forget drops what does not hold any more.
func (c *cycle) forget() {
	if c.epoch != c.state.Epoch() {
		c.kept, c.epoch = nil, c.state.Epoch()
	}
}

func (c *cycle) prepare(pod *cluster.Pod) *prepared {
	c.forget()
	i := slices.IndexFunc(c.kept, func(p *prepared) bool { return p.kind.Alike(pod) })
	if i < 0 {
		if len(c.kept) < maxPrepared {
			c.kept = append(c.kept, nil)
		}
		i = len(c.kept) - 1
		c.kept[i] = &prepared{kind: pod, checks: c.filters.Prepare(pod, c.state), preferences: c.scores.Prepare(pod, c.state)}
	}
	p := c.kept[i]
	copy(c.kept[1:], c.kept[:i])
	c.kept[0] = p
	p.checks.Pod = pod
	return p
}

// place chooses the Node for a Pod: the one where room was made for it, else of those that all filters let pass the one with
// the best score. The error is errNoNodes or a *fitError.
func (c *cycle) place(pod *cluster.Pod) (*cluster.Node, error) {
	nodes := c.state.Nodes()
	if len(nodes) == 0 {
		return nil, errNoNodes
	}
	rules := c.prepare(pod)
	if node := c.state.Node(c.state.Nominated(pod.UID)); node != nil && len(rules.checks.Explain(node)) == 0 {
		return node, nil
	}
	wanted := wantedNodes(len(nodes))
	refused := &fitError{nodes: len(nodes), reasons: map[string]int{}}
	fitting := c.fitting[:0]
	start := c.next % len(nodes)
	for i := 0; i < len(nodes) && len(fitting) < wanted; i++ {
		node := nodes[(start+i)%len(nodes)]
		c.next++
		if reasons := rules.checks.Explain(node); len(reasons) > 0 {
			refused.add(node, reasons)
		} else {
			fitting = append(fitting, node)
		}
	}
	c.next %= len(nodes)
	c.fitting = fitting
	switch len(fitting) {
	case 0:
		return nil, refused
	case 1:
		return fitting[0], nil
	}
	total := rules.preferences.Score(fitting)
	best := 0
	for i := 1; i < len(fitting); i++ {
		if total[i] > total[best] || total[i] == total[best] && emptier(fitting[i], fitting[best]) {
			best = i
		}
	}
	return fitting[best], nil
}

func wantedNodes(all int) int {
	return max(min(all, fewNodes), all*max(mostPercent-all/lessForEach, leastPercent)/100)
}

// emptier decides between Nodes of the same score: upstream throws dice, we spread and stay reproducible.
func emptier(a, b *cluster.Node) bool {
	if a.Len() != b.Len() {
		return a.Len() < b.Len()
	}
	return a.Name < b.Name
}

// preempt looks for Pods that can make room for the Pod that place has just refused, and writes upstream's words about it into refused.
// keep reports whether an earlier nomination of the Pod stands.
func (c *cycle) preempt(pod *cluster.Pod, refused *fitError, budgets func() []*policyv1.PodDisruptionBudget) (plan *preempt.Plan, keep bool) {
	nominated := c.state.Node(c.state.Nominated(pod.UID))
	if !slices.Contains(refused.evictable, nominated) {
		nominated = nil // nothing that happens to Pods there will help
	}
	if why := preempt.Eligible(pod, nominated); why != "" {
		refused.preempt = "preemption: " + why
		return nil, true
	}
	reasons := map[string]int{}
	if nodes := refused.evictable; len(nodes) > 0 {
		enough := min(len(nodes), max(fewPlans, len(nodes)*plansPercent/100))
		if plan, reasons = preempt.Find(c.prepare(pod).checks, nodes, enough, budgets()); plan != nil {
			refused.preempt = fmt.Sprintf("preemption: found a potential placement for pod on node %s, preempting %d victims",
				plan.Node.Name, len(plan.Victims))
			return plan, false
		}
	}
	if rest := refused.nodes - len(refused.evictable); rest > 0 {
		reasons["Preemption is not helpful for scheduling"] = rest
	}
	refused.preempt = "preemption: " + unavailable(refused.nodes, reasons)
	return nil, false
}

// helps reports whether a Pod that fitted nowhere is worth another try after something has changed on a Node: it fits there, or
// would if others went.
func (c *cycle) helps(pod *cluster.Pod, node *cluster.Node) bool {
	reasons := c.local.Prepare(pod, c.state).Explain(node)
	return len(reasons) == 0 || reasons[0].Evictable && preempt.Possible(pod, node)
}
