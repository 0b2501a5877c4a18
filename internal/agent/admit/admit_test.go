package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

func testNode(change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd", v1.LabelOSStable: "linux"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"),
			v1.ResourcePods: resource.MustParse("2"), "hugepages-2Mi": resource.MustParse("4Mi"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func testPod(change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       v1.PodSpec{NodeName: "n1", SecurityContext: &v1.PodSecurityContext{}, Containers: []v1.Container{{Name: "c"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(name v1.ResourceName, q string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{name: resource.MustParse(q)}
	}
}

func hostPortOf(ip string, port int32) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostIP: ip, HostPort: port, ContainerPort: 80}}
	}
}

func withSysctl(name string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.SecurityContext.Sysctls = []v1.Sysctl{{Name: name, Value: "1"}} }
}

func appArmorOf(t v1.AppArmorProfileType) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: t}}
	}
}

func condition(c v1.NodeConditionType) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: c, Status: v1.ConditionTrue})
	}
}

func TestAdmit(t *testing.T) {
	kernel := version.MustParseGeneric("6.1.0")
	strict := v1.SupplementalGroupsPolicyStrict
	critical := int32(2000000000)
	noExecute := func(n *v1.Node) {
		n.Spec.Taints = []v1.Taint{{Key: "gone", Effect: v1.TaintEffectNoExecute}}
	}
	tests := []struct {
		name            string
		node            *v1.Node
		others          []*v1.Pod
		pod             *v1.Pod
		opts            Options
		reason, message string // empty reason: admitted
	}{
		{name: "plain", pod: testPod()},
		{name: "pods", others: []*v1.Pod{testPod(), testPod()}, pod: testPod(),
			reason: "OutOfpods", message: "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"},
		{name: "cpu", others: []*v1.Pod{testPod(requests("cpu", "1500m"))}, pod: testPod(requests("cpu", "501m")),
			reason: "OutOfcpu", message: "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		{name: "cpu fits exactly", others: []*v1.Pod{testPod(requests("cpu", "1500m"))}, pod: testPod(requests("cpu", "500m"))},
		{name: "memory", pod: testPod(requests("memory", "2Gi")),
			reason: "OutOfmemory", message: "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{name: "hugepages", pod: testPod(requests("hugepages-2Mi", "8Mi")),
			reason: "OutOfhugepages-2Mi", message: "Node didn't have enough resource: hugepages-2Mi, requested: 8388608, used: 0, capacity: 4194304"},
		{name: "unknown extended resource", pod: testPod(requests("example.com/gpu", "1"))},
		{name: "node selector", pod: testPod(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "nvme"} }),
			reason: "NodeAffinity", message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{name: "node selector matches", pod: testPod(func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })},
		{name: "node name", pod: testPod(func(p *v1.Pod) { p.Spec.NodeName = "n2" }),
			reason: "NodeName", message: "Predicate NodeName failed: node(s) didn't match the requested node name"},
		{name: "host port", others: []*v1.Pod{testPod(hostPortOf("", 80))}, pod: testPod(hostPortOf("10.0.0.1", 80)),
			reason: "NodePorts", message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{name: "host port, other address", others: []*v1.Pod{testPod(hostPortOf("10.0.0.2", 80))}, pod: testPod(hostPortOf("10.0.0.1", 80))},
		{name: "host port, other number", others: []*v1.Pod{testPod(hostPortOf("", 81))}, pod: testPod(hostPortOf("", 80))},
		{name: "taint", node: testNode(noExecute), pod: testPod(),
			reason: "TaintToleration", message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"},
		{name: "taint tolerated", node: testNode(noExecute), pod: testPod(func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}}
		})},
		{name: "taint for scheduling only", pod: testPod(), node: testNode(func(n *v1.Node) {
			n.Spec.Taints = []v1.Taint{{Key: "x", Effect: v1.TaintEffectNoSchedule}}
		})},
		{name: "taint on static pod", node: testNode(noExecute), pod: testPod(func(p *v1.Pod) {
			p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
		})},
		{name: "windows", pod: testPod(func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }),
			reason: "PodOSNotSupported", message: "Failed to admit pod as the OS field doesn't match node OS"},
		{name: "windows label", pod: testPod(func(p *v1.Pod) { p.Labels = map[string]string{v1.LabelOSStable: "windows"} }),
			reason: "PodOSSelectorNodeLabelDoesNotMatch", message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"},
		{name: "strict groups", pod: testPod(func(p *v1.Pod) { p.Spec.SecurityContext.SupplementalGroupsPolicy = &strict }),
			reason: "SupplementalGroupsPolicyNotSupported", message: "SupplementalGroupsPolicy=Strict is not supported in this node"},
		{name: "sysctl unknown", pod: testPod(withSysctl("kernel.msgmax")), opts: Options{Kernel: kernel},
			reason: "SysctlForbidden", message: `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{name: "sysctl safe", pod: testPod(withSysctl("net/ipv4/tcp_rmem")), opts: Options{Kernel: kernel}},
		{name: "sysctl safe on newer kernels", pod: testPod(withSysctl("net.ipv4.tcp_rmem")), opts: Options{Kernel: version.MustParseGeneric("4.14")},
			reason: "SysctlForbidden", message: `forbidden sysctl: "net.ipv4.tcp_rmem" not allowlisted`},
		{name: "sysctl allowed by prefix", pod: testPod(withSysctl("kernel.msgmax")), opts: Options{AllowedUnsafeSysctls: []string{"kernel.msg*"}}},
		{name: "sysctl never namespaced", pod: testPod(withSysctl("vm.swappiness")), opts: Options{AllowedUnsafeSysctls: []string{"vm.*"}},
			reason: "SysctlForbidden", message: `forbidden sysctl: "vm.swappiness" not allowlisted`},
		{name: "sysctl on host network", opts: Options{Kernel: kernel},
			pod:    testPod(withSysctl("net.ipv4.tcp_syncookies"), func(p *v1.Pod) { p.Spec.HostNetwork = true }),
			reason: "SysctlForbidden", message: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{name: "apparmor", pod: testPod(appArmorOf(v1.AppArmorProfileTypeRuntimeDefault)),
			reason: "AppArmor", message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{name: "apparmor enabled", pod: testPod(appArmorOf(v1.AppArmorProfileTypeRuntimeDefault)), opts: Options{AppArmor: true}},
		{name: "apparmor unconfined", pod: testPod(appArmorOf(v1.AppArmorProfileTypeUnconfined))},
		{name: "apparmor running", pod: testPod(appArmorOf(v1.AppArmorProfileTypeRuntimeDefault), func(p *v1.Pod) { p.Status.Phase = v1.PodRunning })},
		{name: "memory pressure, best effort", node: testNode(condition(v1.NodeMemoryPressure)), pod: testPod(),
			reason: "Evicted", message: "The node had condition: [MemoryPressure]. "},
		{name: "memory pressure, burstable", node: testNode(condition(v1.NodeMemoryPressure)), pod: testPod(requests("cpu", "1m"))},
		{name: "memory pressure, tolerated", node: testNode(condition(v1.NodeMemoryPressure)), pod: testPod(func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists}}
		})},
		{name: "disk pressure", node: testNode(condition(v1.NodeDiskPressure)), pod: testPod(requests("cpu", "1m")),
			reason: "Evicted", message: "The node had condition: [DiskPressure]. "},
		{name: "disk pressure, critical", node: testNode(condition(v1.NodeDiskPressure)), pod: testPod(func(p *v1.Pod) { p.Spec.Priority = &critical })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			node := tt.node
			if node == nil {
				node = testNode()
			}
			ok, reason, message := Admit(node, tt.others, tt.pod, tt.opts)
			if ok != (tt.reason == "") || reason != tt.reason || message != tt.message {
				t.Errorf("Admit() = %v, %q, %q; want reason %q, message %q", ok, reason, message, tt.reason, tt.message)
			}
		})
	}
}
