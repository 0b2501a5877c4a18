package admit

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// resources refuses a Pod whose requests no longer fit into what the node can allocate. The first
// shortage decides, in upstream's order: pods, cpu, memory, ephemeral-storage, then the rest by name.
func resources(node *v1.Node, others []*v1.Pod, pod *v1.Pod) *refusal {
	allocatable := node.Status.Allocatable
	if most := allocatable.Pods().Value(); int64(len(others))+1 > most {
		return shortage(v1.ResourcePods, 1, int64(len(others)), most)
	}
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	if len(requests) == 0 {
		return nil
	}
	used := v1.ResourceList{}
	for _, other := range others {
		// A Pod being resized holds the larger of what it has and what it wants.
		for name, q := range resource.PodRequests(other, resource.PodResourcesOptions{UseStatusResources: true}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for _, name := range inOrder(requests) {
		capacity, known := allocatable[name]
		if !known && helper.IsExtendedResourceName(name) {
			continue // one that the cluster provides and nodes know nothing of
		}
		want, have, most := amount(name, requests), amount(name, used), amount(name, v1.ResourceList{name: capacity})
		if want > 0 && want > most-have {
			return shortage(name, want, have, most)
		}
	}
	return nil
}

// Shortage tells what a Pod's requests lack on the node beside the others, empty if they fit.
func Shortage(node *v1.Node, others []*v1.Pod, pod *v1.Pod) string {
	if r := resources(node, others, pod); r != nil {
		return r.message
	}
	return ""
}

func shortage(name v1.ResourceName, requested, used, capacity int64) *refusal {
	return &refusal{ReasonOutOf + string(name), fmt.Sprintf(
		"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}

// amount counts cpu in thousandths of a core and everything else in units.
func amount(name v1.ResourceName, list v1.ResourceList) int64 {
	q := list[name]
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func inOrder(requests v1.ResourceList) []v1.ResourceName {
	first := []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}
	rest := slices.Sorted(maps.Keys(requests))
	return append(first, slices.DeleteFunc(rest, func(n v1.ResourceName) bool { return slices.Contains(first, n) })...)
}
