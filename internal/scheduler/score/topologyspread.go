package score

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// TopologySpread prefers Nodes in parts of a topology with few of the Pod's fellows, for constraints that say ScheduleAnyway.
type TopologySpread struct{}

// Name implements Rule.
func (TopologySpread) Name() string { return "PodTopologySpread" }

// Weight implements Rule.
func (TopologySpread) Weight() int64 { return 2 }

// Prepare implements Rule.
func (TopologySpread) Prepare(pod *cluster.Pod, state *cluster.State) Preference {
	p := &spread{pod: pod}
	for i := range pod.Spread {
		if s := &pod.Spread[i]; !s.Hard {
			p.topologies = append(p.topologies, topology{s, map[string]int64{}})
		}
	}
	if len(p.topologies) == 0 {
		return nil
	}
	for _, node := range state.Nodes() {
		for other := range node.Pods() {
			p.Count(other, node, 1)
		}
	}
	return p
}

type spread struct {
	pod        *cluster.Pod
	topologies []topology
}

type topology struct {
	*cluster.Spread
	counts map[string]int64 // by part; for host names, by Node, whether or not the Node is part of the topology
}

// Count implements Counter.
func (p *spread) Count(other *cluster.Pod, node *cluster.Node, sign int) {
	labeled := p.labeled(node)
	for _, t := range p.topologies {
		part, ok := node.Labels[t.Key]
		if ok && t.Spreads(p.pod, other) && (t.Key == v1.LabelHostname || labeled && t.Counts(p.pod, node)) {
			t.counts[t.part(node, part)] += int64(sign)
		}
	}
}

// part names what is counted together: upstream counts on the Node itself for host names.
func (t *topology) part(node *cluster.Node, value string) string {
	if t.Key == v1.LabelHostname {
		return node.Name
	}
	return value
}

// Score implements Preference.
func (p *spread) Score(nodes []*cluster.Node) []int64 {
	weights := p.weights(nodes)
	scores := make([]int64, len(nodes))
	least, most := int64(math.MaxInt64), int64(0)
	for i, node := range nodes {
		if p.labeled(node) {
			scores[i] = p.crowd(node, weights)
			least, most = min(least, scores[i]), max(most, scores[i])
		}
	}
	for i, node := range nodes {
		switch {
		case !p.labeled(node):
			scores[i] = 0
		case most == 0:
			scores[i] = Max
		default:
			scores[i] = Max * (most + least - scores[i]) / most
		}
	}
	return scores
}

// Explain implements Preference.
func (p *spread) Explain(node *cluster.Node) string {
	if !p.labeled(node) {
		return "a topology label is missing"
	}
	sum := int64(0)
	for _, t := range p.topologies {
		sum += t.counts[t.part(node, node.Labels[t.Key])]
	}
	return fmt.Sprintf("%d Pods to be spread are in its parts of the topologies", sum)
}

// weights grow with the number of parts that the Nodes lie in, so that a few large parts do not outweigh many small ones.
func (p *spread) weights(nodes []*cluster.Node) []float64 {
	weights := make([]float64, len(p.topologies))
	for i, t := range p.topologies {
		parts := map[string]bool{}
		for _, node := range nodes {
			if p.labeled(node) {
				parts[t.part(node, node.Labels[t.Key])] = true
			}
		}
		weights[i] = math.Log(float64(len(parts) + 2))
	}
	return weights
}

func (p *spread) crowd(node *cluster.Node, weights []float64) int64 {
	sum := 0.0
	for i, t := range p.topologies {
		sum += float64(t.counts[t.part(node, node.Labels[t.Key])])*weights[i] + float64(t.MaxSkew-1)
	}
	return int64(math.Round(sum))
}

// labeled reports whether a Node has a place in all the topologies.
func (p *spread) labeled(node *cluster.Node) bool {
	for _, t := range p.topologies {
		if _, ok := node.Labels[t.Key]; !ok {
			return false
		}
	}
	return true
}
