package containerconfig

import (
	"path"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	v1qos "k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	"k8s.io/kubernetes/pkg/kubelet/qos"

	"peapod.dev/peapod/internal/agent/allocation"
)

// pkg/kubelet/cm's figures for the CPU controller.
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	quotaPeriod  = 100_000 // µs
	minQuota     = 1_000   // µs
)

// ContainerResources returns a container's limits, to create or to update it with. The Pod's own limits, if it has any,
// stand in for those that the container does not set.
func (n *Node) ContainerResources(pod *v1.Pod, container *v1.Container) *runtimeapi.LinuxContainerResources {
	cpuLimit, memoryLimit := container.Resources.Limits.Cpu(), container.Resources.Limits.Memory()
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		if cpuLimit.IsZero() {
			cpuLimit = pod.Spec.Resources.Limits.Cpu()
		}
		if memoryLimit.IsZero() {
			memoryLimit = pod.Spec.Resources.Limits.Memory()
		}
	}
	cpuRequest := cpuLimit
	if _, ok := container.Resources.Requests[v1.ResourceCPU]; ok {
		cpuRequest = container.Resources.Requests.Cpu()
	}
	resources := n.resources(cpuRequest, cpuLimit, memoryLimit)
	resources.OomScoreAdj = int64(qos.GetContainerOOMScoreAdjust(pod, container, max(n.MemoryCapacity, 1)))
	if n.SwapAccounting {
		if n.CgroupV2 {
			resources.Unified["memory.swap.max"] = "0"
		} else {
			resources.MemorySwapLimitInBytes = resources.MemoryLimitInBytes
		}
	}
	return resources
}

// SandboxResources returns what all containers of a Pod together may use, without its overhead, and the overhead.
func (n *Node) SandboxResources(pod *v1.Pod) (resources, overhead *runtimeapi.LinuxContainerResources) {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(pod, options), allocation.PodLimits(pod, options)
	cpuRequest := limits.Cpu()
	if _, ok := requests[v1.ResourceCPU]; ok {
		cpuRequest = requests.Cpu()
	}
	overhead = &runtimeapi.LinuxContainerResources{}
	if pod.Spec.Overhead != nil {
		cpu := pod.Spec.Overhead.Cpu()
		overhead = n.resources(cpu, cpu, pod.Spec.Overhead.Memory())
	}
	return n.resources(cpuRequest, limits.Cpu(), limits.Memory()), overhead
}

func (n *Node) resources(cpuRequest, cpuLimit, memoryLimit *resource.Quantity) *runtimeapi.LinuxContainerResources {
	resources := &runtimeapi.LinuxContainerResources{
		CpuShares:          min(max(cpuRequest.MilliValue()*sharesPerCPU/1000, minShares), maxShares),
		CpuPeriod:          quotaPeriod,
		MemoryLimitInBytes: memoryLimit.Value(),
	}
	if milli := cpuLimit.MilliValue(); milli != 0 {
		resources.CpuQuota = max(milli*quotaPeriod/1000, minQuota)
	}
	if n.CgroupV2 { // the kernel is to end all processes of the container together
		resources.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return resources
}

// CgroupParent is the Pod's cgroup: as with the kubelet, below a folder for its class unless it is Guaranteed.
func (n *Node) CgroupParent(pod *v1.Pod) string {
	name := "pod" + string(pod.UID)
	switch v1qos.GetPodQOS(pod) {
	case v1.PodQOSBurstable:
		return path.Join(n.CgroupRoot, "burstable", name)
	case v1.PodQOSBestEffort:
		return path.Join(n.CgroupRoot, "besteffort", name)
	default:
		return path.Join(n.CgroupRoot, name)
	}
}
