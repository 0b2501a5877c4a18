package score

import (
	"fmt"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// ImageLocality prefers Nodes that have the Pod's images already: the larger they are, and the more Nodes have them, which keeps Pods
// from all going to the one Node that does.
type ImageLocality struct{}

// Between these sizes the score grows (pkg/scheduler/framework/plugins/imagelocality).
const (
	fewImageBytes  = 23 << 20
	manyImageBytes = 1000 << 20 // for each image
)

// Name implements Rule.
func (ImageLocality) Name() string { return "ImageLocality" }

// Weight implements Rule.
func (ImageLocality) Weight() int64 { return 1 }

// Prepare implements Rule.
func (ImageLocality) Prepare(pod *cluster.Pod, state *cluster.State) Preference {
	p := localImages{most: manyImageBytes * int64(len(pod.Images))}
	for _, name := range pod.Images {
		if n := state.NodesWith(name); n > 0 {
			p.images = append(p.images, image{name, float64(n) / float64(len(state.Nodes()))})
		}
	}
	if len(p.images) == 0 {
		return nil
	}
	return p
}

type localImages struct {
	images []image
	most   int64
}

type image struct {
	name  string
	share float64 // of the Nodes that have it
}

// Score implements Preference.
func (p localImages) Score(nodes []*cluster.Node) []int64 {
	return each(nodes, func(n *cluster.Node) int64 {
		return Max * (min(max(p.bytes(n), fewImageBytes), p.most) - fewImageBytes) / (p.most - fewImageBytes)
	})
}

// Explain implements Preference.
func (p localImages) Explain(node *cluster.Node) string {
	return fmt.Sprintf("%d MB of its images are there, weighed by how common they are", p.bytes(node)>>20)
}

func (p localImages) bytes(node *cluster.Node) (sum int64) {
	for _, i := range p.images {
		sum += int64(float64(node.ImageSize(i.name)) * i.share)
	}
	return sum
}
