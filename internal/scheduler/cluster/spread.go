package cluster

import (
	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Spread is a topology spread constraint of a Pod.
type Spread struct {
	Key                 string
	Hard                bool // DoNotSchedule
	MaxSkew, MinDomains int32
	Selector            labels.Selector
	honorAffinity       bool
	honorTaints         bool
}

func spreadOf(pod *v1.Pod) []Spread {
	var all []Spread
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			continue // validation lets nobody store it
		}
		s := Spread{Key: c.TopologyKey, Hard: c.WhenUnsatisfiable == v1.DoNotSchedule, MaxSkew: c.MaxSkew, MinDomains: 1,
			Selector:      withKeys(selector, c.MatchLabelKeys, pod.Labels),
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor}
		if c.MinDomains != nil {
			s.MinDomains = *c.MinDomains
		}
		all = append(all, s)
	}
	return all
}

// withKeys narrows a selector to Pods that have the same values of the keys. Where the API server has merged them already this changes nothing.
func withKeys(selector labels.Selector, keys []string, own map[string]string) labels.Selector {
	same := labels.Set{}
	for _, key := range keys {
		if value, ok := own[key]; ok {
			same[key] = value
		}
	}
	requirements, selectable := selector.Requirements()
	if len(same) == 0 || !selectable {
		return selector
	}
	return labels.SelectorFromSet(same).Add(requirements...)
}

// Counts reports whether a Node, all of whose topology labels are there, is part of the topology for pod.
func (s *Spread) Counts(pod *Pod, node *Node) bool {
	if s.honorAffinity {
		// A term that cannot be parsed matches nothing.
		if ok, _ := pod.Required.Match(node.Node); !ok {
			return false
		}
	}
	return !s.honorTaints || node.Tolerated(pod)
}

// Tolerated reports whether pod tolerates all taints that keep Pods away.
func (n *Node) Tolerated(pod *Pod) bool {
	if len(n.Spec.Taints) == 0 {
		return true
	}
	_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(logr.Discard(), n.Spec.Taints, pod.Spec.Tolerations,
		func(t *v1.Taint) bool {
			return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
		}, false)
	return !untolerated
}

// Spreads reports whether other is one of the Pods that are to be spread together with pod: it counts where it is, and a Pod on its
// way out does not count.
func (s *Spread) Spreads(pod, other *Pod) bool {
	return other.DeletionTimestamp == nil && other.Namespace == pod.Namespace && !s.Selector.Empty() &&
		s.Selector.Matches(labels.Set(other.Labels))
}

// Selects reports whether the selector means pod.
func (s *Spread) Selects(pod *Pod) bool { return s.Selector.Matches(labels.Set(pod.Labels)) }
