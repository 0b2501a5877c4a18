package cluster

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What a container that requests nothing is taken to use when Nodes are compared, so that Pods without requests spread too
// (pkg/scheduler/util/pod_resources.go).
const (
	defaultMilliCPU int64 = 100
	defaultMemory   int64 = 200 << 20
)

// Resources maps a resource to an amount: thousandths of a core for cpu, whole units for everything else. A zero amount is
// never stored. "pods" counts Pods, so that the limit on their number is a resource like the others.
type Resources map[v1.ResourceName]int64

func resourcesOf(list v1.ResourceList) Resources {
	r := make(Resources, len(list))
	for name, quantity := range list {
		amount := quantity.Value()
		if name == v1.ResourceCPU {
			amount = quantity.MilliValue()
		}
		if amount != 0 {
			r[name] = amount
		}
	}
	return r
}

func (r Resources) add(other Resources, sign int64) {
	for name, amount := range other {
		if r[name] += sign * amount; r[name] == 0 {
			delete(r, name)
		}
	}
}

// requestsOf returns what pod asks for: containers, init containers, sidecars, Pod level resources, overhead, and for a Pod that
// runs also what its node has already given it.
func requestsOf(pod *v1.Pod) Resources {
	r := resourcesOf(resourcehelper.PodRequests(pod, options(nil)))
	r[v1.ResourcePods] = 1
	return r
}

// estimateOf returns requestsOf with a guess for each container that does not say what it needs. Only cpu and memory are kept:
// nothing else is estimated.
func estimateOf(pod *v1.Pod) Resources {
	missing := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
	}
	if resourcehelper.IsPodLevelRequestsSet(pod) {
		// The Pod's own figure stands for all its containers.
		for name := range resourcehelper.PodRequests(pod, options(nil)) {
			delete(missing, name)
		}
	}
	r := resourcesOf(resourcehelper.PodRequests(pod, options(missing)))
	maps.DeleteFunc(r, func(name v1.ResourceName, _ int64) bool { return name != v1.ResourceCPU && name != v1.ResourceMemory })
	return r
}

func options(missing v1.ResourceList) resourcehelper.PodResourcesOptions {
	return resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
		NonMissingContainerRequests:                    missing,
	}
}
