package allocation

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

func list(cpu, memory string) v1.ResourceList {
	out := v1.ResourceList{}
	if cpu != "" {
		out[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func podOf(limits ...v1.ResourceList) *v1.Pod {
	pod := &v1.Pod{}
	for i, l := range limits {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: string(rune('a' + i)), Resources: v1.ResourceRequirements{Limits: l}})
	}
	return pod
}

// The limits of one container are not those of the others.
func TestPodLimits(t *testing.T) {
	whole := podOf(nil)
	whole.Spec.Resources = &v1.ResourceRequirements{Limits: list("", "1Gi")}
	for _, c := range []struct {
		name        string
		pod         *v1.Pod
		cpu, memory string
	}{
		{"all limited", podOf(list("1", "1Mi"), list("2", "2Mi")), "3", "3Mi"},
		{"one without CPU", podOf(list("1", "1Mi"), list("", "2Mi")), "0", "3Mi"},
		{"one without any", podOf(list("1", "1Mi"), nil), "0", "0"},
		{"the pod's own", whole, "0", "1Gi"},
	} {
		got := PodLimits(c.pod, resourcehelper.PodResourcesOptions{})
		if got.Cpu().String() != c.cpu || got.Memory().String() != c.memory {
			t.Errorf("%s: %v, want %s and %s", c.name, got, c.cpu, c.memory)
		}
	}
}

// What was granted stands in the status; what the status does not tell, in the spec.
func TestGranted(t *testing.T) {
	pod := podOf(list("2", "2Mi"), list("2", "2Mi"))
	pod.Spec.Resources = &v1.ResourceRequirements{Requests: list("5", ""), Limits: list("", "5Mi")}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", Resources: &v1.ResourceRequirements{Limits: list("1", "1Mi")}}, {Name: "b"}}
	pod.Status.AllocatedResources = list("4", "7Mi")
	pod.Status.Resources = &v1.ResourceRequirements{Limits: list("3", "4Mi")}
	before := pod.DeepCopy()
	got := Granted(pod).Apply(pod).Spec
	for what, q := range map[string][2]*resource.Quantity{
		"a, CPU":          {got.Containers[0].Resources.Limits.Cpu(), resource.NewQuantity(1, resource.DecimalSI)},
		"a, memory":       {got.Containers[0].Resources.Limits.Memory(), resource.NewQuantity(1<<20, resource.BinarySI)},
		"b, CPU":          {got.Containers[1].Resources.Limits.Cpu(), resource.NewQuantity(2, resource.DecimalSI)},
		"the pod, CPU":    {got.Resources.Requests.Cpu(), resource.NewQuantity(4, resource.DecimalSI)},
		"the pod, memory": {got.Resources.Limits.Memory(), resource.NewQuantity(4<<20, resource.BinarySI)},
	} {
		if !q[0].Equal(*q[1]) {
			t.Errorf("%s: %s, want %s", what, q[0], q[1])
		}
	}
	if _, more := got.Resources.Requests[v1.ResourceMemory]; more {
		t.Error("the pod has been granted a request that it did not make")
	}
	if !Asked(before).Equal(Asked(pod)) {
		t.Error("the pod has been changed")
	}
	if same := podOf(list("1000m", "1024Ki")); Asked(podOf(list("1", "1Mi"))).Apply(same) != same {
		t.Error("the same amounts, written otherwise, are taken for others")
	}
}
