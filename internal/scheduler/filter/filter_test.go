package filter

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

func list(pairs ...string) v1.ResourceList {
	l := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func container(requests v1.ResourceList) v1.Container {
	return v1.Container{Resources: v1.ResourceRequirements{Requests: requests}}
}

func hostPort(ip string, port int32, protocol v1.Protocol) v1.Container {
	return v1.Container{Ports: []v1.ContainerPort{{HostIP: ip, HostPort: port, ContainerPort: port, Protocol: protocol}}}
}

func requires(terms ...v1.NodeSelectorTerm) *v1.Affinity {
	return &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}}
}

func expression(key string, op v1.NodeSelectorOperator, values ...string) v1.NodeSelectorTerm {
	return v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func onNodes(names ...string) v1.NodeSelectorTerm {
	return v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: names}}}
}

func TestDefault(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	for name, tc := range map[string]struct {
		pod      v1.PodSpec
		node     v1.Node    // named "n"; 2 cpu, 4Gi, 10 pods unless it says otherwise
		there    v1.PodSpec // a Pod that is on the node
		want     []string
		hopeless bool // no eviction helps
	}{
		"anything":           {},
		"its node":           {pod: v1.PodSpec{NodeName: "n"}},
		"another node":       {pod: v1.PodSpec{NodeName: "m"}, want: []string{"node(s) didn't match the requested node name"}, hopeless: true},
		"selector matches":   {pod: v1.PodSpec{NodeSelector: map[string]string{"disk": "ssd"}}, node: v1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"disk": "ssd"}}}},
		"selector":           {pod: v1.PodSpec{NodeSelector: map[string]string{"disk": "ssd"}}, want: []string{"node(s) didn't match Pod's node affinity/selector"}, hopeless: true},
		"affinity is an or":  {pod: v1.PodSpec{Affinity: requires(expression("a", v1.NodeSelectorOpExists), expression("a", v1.NodeSelectorOpDoesNotExist))}},
		"affinity":           {pod: v1.PodSpec{Affinity: requires(expression("a", v1.NodeSelectorOpExists))}, want: []string{"node(s) didn't match Pod's node affinity/selector"}, hopeless: true},
		"no term":            {pod: v1.PodSpec{Affinity: requires()}, want: []string{"node(s) didn't match Pod's node affinity/selector"}, hopeless: true},
		"affinity by name":   {pod: v1.PodSpec{Affinity: requires(onNodes("m"), onNodes("n"))}},
		"affinity elsewhere": {pod: v1.PodSpec{Affinity: requires(onNodes("m"), onNodes("o"))}, want: []string{"node(s) didn't satisfy plugin(s) [NodeAffinity]"}, hopeless: true},
		"affinity by name or label": {pod: v1.PodSpec{Affinity: requires(onNodes("m"), expression("a", v1.NodeSelectorOpExists))},
			want: []string{"node(s) didn't match Pod's node affinity/selector"}, hopeless: true},
		"cordoned": {node: v1.Node{Spec: v1.NodeSpec{Unschedulable: true, Taints: []v1.Taint{{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}}}},
			want: []string{"node(s) were unschedulable"}, hopeless: true},
		"cordoned, tolerated": {node: v1.Node{Spec: v1.NodeSpec{Unschedulable: true}},
			pod: v1.PodSpec{Tolerations: []v1.Toleration{{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists}}}},
		"taint": {node: v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}}}},
			want: []string{"node(s) had untolerated taint(s)"}, hopeless: true},
		"taint, tolerated": {node: v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoSchedule}}}},
			pod: v1.PodSpec{Tolerations: []v1.Toleration{{Key: "k", Value: "v", Effect: v1.TaintEffectNoSchedule}}}},
		"a mere preference": {node: v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "k", Effect: v1.TaintEffectPreferNoSchedule}}}}},
		"port": {pod: v1.PodSpec{Containers: []v1.Container{hostPort("", 80, "TCP")}}, there: v1.PodSpec{Containers: []v1.Container{hostPort("127.0.0.1", 80, "")}},
			want: []string{"node(s) didn't have free ports for the requested pod ports"}},
		"port of another address":  {pod: v1.PodSpec{Containers: []v1.Container{hostPort("127.0.0.2", 80, "TCP")}}, there: v1.PodSpec{Containers: []v1.Container{hostPort("127.0.0.1", 80, "TCP")}}},
		"port of another protocol": {pod: v1.PodSpec{Containers: []v1.Container{hostPort("", 53, "UDP")}}, there: v1.PodSpec{Containers: []v1.Container{hostPort("", 53, "TCP")}}},
		"port of a sidecar": {pod: v1.PodSpec{Containers: []v1.Container{hostPort("", 80, "TCP")}},
			there: v1.PodSpec{InitContainers: []v1.Container{{RestartPolicy: &always, Ports: hostPort("", 80, "TCP").Ports}}},
			want:  []string{"node(s) didn't have free ports for the requested pod ports"}},
		"port of an init container": {pod: v1.PodSpec{Containers: []v1.Container{hostPort("", 80, "TCP")}}, there: v1.PodSpec{InitContainers: []v1.Container{hostPort("", 80, "TCP")}}},
		"just fits":                 {pod: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "1500m", "memory", "4Gi"))}}, there: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "500m"))}}},
		"cpu":                       {pod: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "1501m"))}}, there: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "500m"))}}, want: []string{"Insufficient cpu"}},
		"cpu of no empty node":      {pod: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "3"))}}, want: []string{"Insufficient cpu"}, hopeless: true},
		"two resources": {pod: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "2", "memory", "5Gi"))}}, there: v1.PodSpec{Containers: []v1.Container{container(list("cpu", "1"))}},
			want: []string{"Insufficient cpu", "Insufficient memory"}, hopeless: true},
		"extended resource": {pod: v1.PodSpec{Containers: []v1.Container{container(list("example.com/gpu", "1"))}}, want: []string{"Insufficient example.com/gpu"}, hopeless: true},
		"init container":    {pod: v1.PodSpec{InitContainers: []v1.Container{container(list("cpu", "2"))}, Containers: []v1.Container{container(list("cpu", "1"))}}},
		"sidecar and overhead": {pod: v1.PodSpec{Overhead: list("cpu", "600m"), Containers: []v1.Container{container(list("cpu", "1"))},
			InitContainers: []v1.Container{{RestartPolicy: &always, Resources: v1.ResourceRequirements{Requests: list("cpu", "500m")}}}},
			want: []string{"Insufficient cpu"}, hopeless: true},
		"pod level": {pod: v1.PodSpec{Resources: &v1.ResourceRequirements{Requests: list("cpu", "3")}, Containers: []v1.Container{container(list("cpu", "1"))}},
			want: []string{"Insufficient cpu"}, hopeless: true},
		"too many": {node: v1.Node{Status: v1.NodeStatus{Allocatable: list("pods", "1")}}, want: []string{"Too many pods"}},
	} {
		t.Run(name, func(t *testing.T) {
			state := cluster.NewState()
			tc.node.Name = "n"
			if tc.node.Status.Allocatable == nil {
				tc.node.Status.Allocatable = list("cpu", "2", "memory", "4Gi", "pods", "10")
			}
			node, _ := state.SetNode(&tc.node)
			state.Place(cluster.NewPod(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID("there")}, Spec: tc.there}), "n")
			reasons := Default().Prepare(cluster.NewPod(&v1.Pod{Spec: tc.pod}), state).Explain(node)
			var got []string
			for _, r := range reasons {
				got = append(got, r.Text)
				if r.Evictable == tc.hopeless {
					t.Errorf("%q: evictable is %t", r.Text, r.Evictable)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
