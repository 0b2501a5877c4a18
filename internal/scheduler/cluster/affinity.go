package cluster

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	fwk "k8s.io/kube-scheduler/framework"
)

// Affinity are the terms by which a Pod wants to be near other Pods, or far from them. The API server has already merged matchLabelKeys
// and mismatchLabelKeys into the selectors.
type Affinity struct {
	Required, RequiredAnti   []fwk.AffinityTerm
	Preferred, PreferredAnti []fwk.WeightedAffinityTerm
}

// affinityOf returns nil for a Pod without such terms. A term that cannot be parsed, which validation lets nobody store, makes its list
// count for nothing.
func affinityOf(pod *v1.Pod) *Affinity {
	spec := pod.Spec.Affinity
	if spec == nil || spec.PodAffinity == nil && spec.PodAntiAffinity == nil {
		return nil
	}
	a := &Affinity{}
	a.Required, _ = fwk.GetAffinityTerms(pod, fwk.GetPodAffinityTerms(spec))
	a.RequiredAnti, _ = fwk.GetAffinityTerms(pod, fwk.GetPodAntiAffinityTerms(spec))
	if spec.PodAffinity != nil {
		a.Preferred = weighted(pod, spec.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if spec.PodAntiAffinity != nil {
		a.PreferredAnti = weighted(pod, spec.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return a
}

func weighted(pod *v1.Pod, list []v1.WeightedPodAffinityTerm) []fwk.WeightedAffinityTerm {
	var terms []fwk.WeightedAffinityTerm
	for i := range list {
		term, err := fwk.GetAffinityTerms(pod, []v1.PodAffinityTerm{list[i].PodAffinityTerm})
		if err != nil {
			return nil
		}
		terms = append(terms, fwk.WeightedAffinityTerm{AffinityTerm: term[0], Weight: list[i].Weight})
	}
	return terms
}

// Matches reports whether a term means pod, by its labels and its namespace.
func (s *State) Matches(term *fwk.AffinityTerm, pod *Pod) bool {
	return term.Matches(pod.Pod, s.namespaces[pod.Namespace])
}

// MatchesAny reports whether one of the terms means pod.
func (s *State) MatchesAny(terms []fwk.AffinityTerm, pod *Pod) bool {
	for i := range terms {
		if s.Matches(&terms[i], pod) {
			return true
		}
	}
	return false
}

// MatchesAll reports whether all the terms mean pod; false when there are none.
func (s *State) MatchesAll(terms []fwk.AffinityTerm, pod *Pod) bool {
	for i := range terms {
		if !s.Matches(&terms[i], pod) {
			return false
		}
	}
	return len(terms) > 0
}

// SetNamespace takes over the labels of a namespace, which terms may select by, and reports whether they are new.
func (s *State) SetNamespace(name string, labels labels.Set) bool {
	if old, ok := s.namespaces[name]; ok && maps.Equal(old, labels) {
		return false
	}
	s.namespaces[name] = labels
	s.epoch++
	return true
}

// RemoveNamespace forgets a namespace.
func (s *State) RemoveNamespace(name string) {
	delete(s.namespaces, name)
	s.epoch++
}
