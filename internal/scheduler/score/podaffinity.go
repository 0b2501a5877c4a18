package score

import (
	"fmt"
	"slices"

	fwk "k8s.io/kube-scheduler/framework"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// PodAffinity prefers Nodes near the Pods that the Pod would like to be with, or that would like to be with it, and far from the others.
type PodAffinity struct{}

// requiredWeight is what a required term of a Pod that is there already counts (hardPodAffinityWeight).
const requiredWeight = 1

// Name implements Rule.
func (PodAffinity) Name() string { return "InterPodAffinity" }

// Weight implements Rule.
func (PodAffinity) Weight() int64 { return 2 }

// Prepare implements Rule.
func (PodAffinity) Prepare(pod *cluster.Pod, state *cluster.State) Preference {
	p := &company{pod: pod, state: state, sums: places{}}
	if p.choosy() {
		for _, node := range state.Nodes() {
			for other := range node.Pods() {
				p.Count(other, node, 1)
			}
		}
		return p
	}
	for placed := range state.Affine() {
		p.Count(placed.Pod, placed.Node, 1)
	}
	return p
}

type company struct {
	pod   *cluster.Pod
	state *cluster.State
	sums  places
}

// choosy reports whether the Pod itself has a wish about other Pods.
func (p *company) choosy() bool {
	return p.pod.Affinity != nil && len(p.pod.Affinity.Preferred)+len(p.pod.Affinity.PreferredAnti) > 0
}

// Count implements Counter.
func (p *company) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	if p.choosy() {
		p.weigh(p.pod.Affinity.Preferred, other, node, sign)
		p.weigh(p.pod.Affinity.PreferredAnti, other, node, -sign)
	}
	if other.Affinity == nil {
		return
	}
	for i := range other.Affinity.Required {
		if term := &other.Affinity.Required[i]; p.state.Matches(term, p.pod) {
			p.sums.add(term.TopologyKey, node, requiredWeight*int64(sign))
		}
	}
	p.weigh(other.Affinity.Preferred, p.pod, node, sign)
	p.weigh(other.Affinity.PreferredAnti, p.pod, node, -sign)
}

func (p *company) weigh(terms []fwk.WeightedAffinityTerm, meant *cluster.Pod, node *cluster.Node, sign int) {
	for i := range terms {
		if term := &terms[i]; p.state.Matches(&term.AffinityTerm, meant) {
			p.sums.add(term.TopologyKey, node, int64(term.Weight)*int64(sign))
		}
	}
}

// Score implements Preference.
func (p *company) Score(nodes []*cluster.Node) []int64 {
	if len(p.sums) == 0 {
		return nil
	}
	sums := each(nodes, p.sum)
	least, most := slices.Min(sums), slices.Max(sums)
	for i, sum := range sums {
		if sums[i] = 0; most > least {
			// The order of the operations is upstream's: it decides how it rounds.
			sums[i] = int64(Max * (float64(sum-least) / float64(most-least)))
		}
	}
	return sums
}

// Explain implements Preference.
func (p *company) Explain(node *cluster.Node) string {
	return fmt.Sprintf("terms of weight %d hold there", p.sum(node))
}

func (p *company) sum(node *cluster.Node) (sum int64) {
	for key, values := range p.sums {
		if value, ok := node.Labels[key]; ok {
			sum += values[value]
		}
	}
	return sum
}
