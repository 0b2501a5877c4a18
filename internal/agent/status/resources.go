package status

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"peapod.dev/peapod/internal/agent/allocation"
)

// podResources fills the Pod's own allocatedResources (what is granted) and resources, which are what is in force once it
// runs.
func podResources(pod *v1.Pod, in Input, s *v1.PodStatus) {
	options := resource.PodResourcesOptions{}
	s.AllocatedResources = resource.PodRequests(pod, options)
	if s.Phase == v1.PodRunning && in.Seen.PodResize && in.Old.Resources != nil {
		s.Resources = in.Old.Resources
		return
	}
	if s.Resources = pod.Spec.Resources.DeepCopy(); s.Resources == nil {
		s.Resources = &v1.ResourceRequirements{}
	}
	if s.Phase != v1.PodRunning {
		s.Resources.Requests, s.Resources.Limits = s.AllocatedResources, resource.PodLimits(pod, options)
		return
	}
	if s.Resources.Requests == nil {
		s.Resources.Requests = v1.ResourceList{}
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if q, ok := s.AllocatedResources[name]; ok {
			s.Resources.Requests[name] = q
		}
	}
	s.Resources.Limits = allocation.PodLimits(pod, options)
}
