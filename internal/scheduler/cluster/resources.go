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

// Resources are amounts: thousandths of a core for cpu, whole units for everything else. Pods counts Pods, so that the limit on their
// number is a resource like the others. The common ones are fields because they are looked at for every Pod on every Node.
type Resources struct {
	MilliCPU, Memory, EphemeralStorage, Pods int64
	// Others never holds a zero amount.
	Others map[v1.ResourceName]int64
}

func resourcesOf(list v1.ResourceList) Resources {
	var r Resources
	for name, quantity := range list {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case v1.ResourceMemory:
			r.Memory = quantity.Value()
		case v1.ResourceEphemeralStorage:
			r.EphemeralStorage = quantity.Value()
		case v1.ResourcePods:
			r.Pods = quantity.Value()
		default:
			r.addOther(name, quantity.Value())
		}
	}
	return r
}

// Equal reports whether both are the same amounts.
func (r *Resources) Equal(other *Resources) bool {
	return r.MilliCPU == other.MilliCPU && r.Memory == other.Memory && r.EphemeralStorage == other.EphemeralStorage &&
		r.Pods == other.Pods && maps.Equal(r.Others, other.Others)
}

func (r *Resources) add(other *Resources, sign int64) {
	r.MilliCPU += sign * other.MilliCPU
	r.Memory += sign * other.Memory
	r.EphemeralStorage += sign * other.EphemeralStorage
	r.Pods += sign * other.Pods
	for name, amount := range other.Others {
		r.addOther(name, sign*amount)
	}
}

func (r *Resources) addOther(name v1.ResourceName, amount int64) {
	if amount += r.Others[name]; amount == 0 {
		delete(r.Others, name)
		return
	}
	if r.Others == nil {
		r.Others = map[v1.ResourceName]int64{}
	}
	r.Others[name] = amount
}

// requestsOf returns what pod asks for: containers, init containers, sidecars, Pod level resources, overhead, and for a Pod that
// runs also what its node has already given it.
func requestsOf(pod *v1.Pod) Resources {
	r := resourcesOf(resourcehelper.PodRequests(pod, options(nil)))
	r.Pods = 1
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
	return Resources{MilliCPU: r.MilliCPU, Memory: r.Memory}
}

func options(missing v1.ResourceList) resourcehelper.PodResourcesOptions {
	return resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
		NonMissingContainerRequests:                    missing,
	}
}
