// Package allocation knows which resources a node has granted to a Pod. They are those that its spec asked for when the
// Pod was admitted or last resized ("Resize CPU and Memory Resources assigned to Containers"); a resize that the node has
// not granted leaves them as they are. Nothing is kept on disk for it: what was granted stands in the Pod's status.
//
// Invariant: the package is pure, and changes none of its arguments.
package allocation

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Resources are those of one Pod: of its containers by name (init and app), and its own if its spec has any.
type Resources struct {
	Pod        *v1.ResourceRequirements
	Containers map[string]v1.ResourceRequirements
}

const resizable = podutil.InitContainers | podutil.Containers

// Asked returns what the Pod's spec asks for.
func Asked(pod *v1.Pod) Resources {
	r := Resources{Pod: pod.Spec.Resources, Containers: map[string]v1.ResourceRequirements{}}
	for c := range podutil.ContainerIter(&pod.Spec, resizable) {
		r.Containers[c.Name] = c.Resources
	}
	return r
}

// Granted returns what an earlier agent has granted, as the Pod's status tells it: requests as allocated, limits as they
// are in force. A grant that was not carried out in full looks like a resize that has yet to be granted, which does no harm.
// Of a container of which the status says nothing the spec holds.
func Granted(pod *v1.Pod) Resources {
	r := Asked(pod)
	for _, statuses := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			asked, found := r.Containers[s.Name]
			if !found || s.Resources == nil {
				continue
			}
			asked.Requests, asked.Limits = s.AllocatedResources, s.Resources.Limits
			r.Containers[s.Name] = asked
		}
	}
	if r.Pod != nil && pod.Status.Resources != nil {
		r.Pod = r.Pod.DeepCopy()
		overlay(r.Pod.Requests, pod.Status.AllocatedResources)
		overlay(r.Pod.Limits, pod.Status.Resources.Limits)
	}
	return r
}

// overlay replaces what into has by what from says of the same resources.
func overlay(into, from v1.ResourceList) {
	for name := range into {
		if q, ok := from[name]; ok {
			into[name] = q
		}
	}
}

// Apply returns the Pod with these resources in its spec: pod itself when it asks for just them.
func (r Resources) Apply(pod *v1.Pod) *v1.Pod {
	if r.Equal(Asked(pod)) {
		return pod
	}
	out := pod.DeepCopy()
	out.Spec.Resources = r.Pod.DeepCopy()
	for c := range podutil.ContainerIter(&out.Spec, resizable) {
		if granted, found := r.Containers[c.Name]; found {
			granted.DeepCopyInto(&c.Resources)
		}
	}
	return out
}

// Equal tells whether both are the same amounts, however they are written.
func (r Resources) Equal(other Resources) bool { return equality.Semantic.DeepEqual(r, other) }

// Resize is a wish: a Pod as it asks to be, as it has been granted, and its condition PodResizePending, if any.
type Resize struct {
	Pod, Granted *v1.Pod
	Pending      *v1.PodCondition
}

// Compare orders wishes as the kubelet grants them: what takes no more than before, then by priority, by class of service,
// and by how long it has been pending.
func Compare(a, b Resize) int {
	return cmp.Or(
		order(!a.grows(), !b.grows()),
		cmp.Compare(priority(b.Pod), priority(a.Pod)),
		order(guaranteed(a.Pod), guaranteed(b.Pod)),
		order(a.Pending != nil, b.Pending != nil),
		a.since(b),
	)
}

func (r Resize) grows() bool {
	now, then := resource.PodRequests(r.Granted, resource.PodResourcesOptions{}), resource.PodRequests(r.Pod, resource.PodResourcesOptions{})
	return slices.ContainsFunc([]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory}, func(name v1.ResourceName) bool {
		wanted, had := then[name], now[name]
		return wanted.Cmp(had) > 0
	})
}

func (r Resize) since(other Resize) int {
	if r.Pending == nil || other.Pending == nil {
		return 0
	}
	return r.Pending.LastTransitionTime.Compare(other.Pending.LastTransitionTime.Time)
}

func priority(pod *v1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func guaranteed(pod *v1.Pod) bool { return qos.GetPodQOS(pod) == v1.PodQOSGuaranteed }

// order puts what is so before what is not.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// PodLimits returns the CPU and memory limits of the Pod as a whole: its own, else the sum of its containers' where all of
// them have one, for else there is none (ResourceConfigForPod in pkg/kubelet/cm).
func PodLimits(pod *v1.Pod, options resource.PodResourcesOptions) v1.ResourceList {
	sums, limits := resource.PodLimits(pod, options), v1.ResourceList{}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if q, ok := sums[name]; ok && limited(pod, name) {
			limits[name] = q
		}
	}
	return limits
}

func limited(pod *v1.Pod, name v1.ResourceName) bool {
	if own := pod.Spec.Resources; own != nil {
		if q, ok := own.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for c := range podutil.ContainerIter(&pod.Spec, resizable) {
		if q, ok := c.Resources.Limits[name]; !ok || q.IsZero() {
			return false
		}
	}
	return true
}
