package cluster

import (
	"maps"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(uid, cpu string, port int32) *Pod {
	return NewPod(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{Containers: []v1.Container{{
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}},
		Ports:     []v1.ContainerPort{{HostPort: port}},
	}}}})
}

func node(name string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("2"), v1.ResourcePods: resource.MustParse("10")}}}
}

func TestPlaceAndRemove(t *testing.T) {
	s := NewState()
	n := s.SetNode(node("a"))
	http := HostPort{IP: anyAddress, Protocol: v1.ProtocolTCP, Port: 80}
	if !s.Place(pod("p", "500m", 80), "a") || s.Place(pod("p", "500m", 80), "a") {
		t.Error("the first placement is news, the same again is not")
	}
	s.Place(pod("q", "1", 0), "a")
	if want := (Resources{v1.ResourceCPU: 1500, v1.ResourcePods: 2}); !maps.Equal(n.Requested, want) {
		t.Errorf("requested %v, want %v", n.Requested, want)
	}
	if n.Free(v1.ResourceCPU) != 500 || n.Pods() != 2 || !n.Taken(http) {
		t.Errorf("free %d, %d Pods, port taken %t", n.Free(v1.ResourceCPU), n.Pods(), n.Taken(http))
	}
	if !s.Place(pod("p", "250m", 80), "a") || n.Free(v1.ResourceCPU) != 750 {
		t.Errorf("a Pod that shrinks leaves %d", n.Free(v1.ResourceCPU))
	}
	if !s.Place(pod("p", "250m", 80), "b") || n.Taken(http) {
		t.Error("a Pod counts on one Node only")
	}
	if s.Remove("q") != "a" || s.Remove("q") != "" || len(n.Requested) != 0 || len(n.Estimate) != 0 {
		t.Errorf("left over: %v, %v", n.Requested, n.Estimate)
	}
}

func TestPodsOutliveTheirNode(t *testing.T) {
	s := NewState()
	s.Place(pod("p", "1", 0), "a")
	if s.Node("a") != nil || s.Len() != 0 {
		t.Error("a Node that is only named does not exist")
	}
	s.SetNode(node("a"))
	s.SetNode(node("a"))
	s.RemoveNode("a")
	if s.Node("a") != nil || s.Len() != 0 {
		t.Error("the Node is gone")
	}
	if n := s.SetNode(node("a")); n.Free(v1.ResourceCPU) != 1000 || s.Len() != 1 {
		t.Errorf("%d left: the Pod still counts", n.Free(v1.ResourceCPU))
	}
	s.RemoveNode("a")
	if s.Remove("p") != "a" || len(s.nodes) != 0 {
		t.Errorf("left over: %v", s.nodes)
	}
}

func TestConflicts(t *testing.T) {
	port := func(ip string, protocol v1.Protocol, n int32) HostPort { return HostPort{ip, protocol, n} }
	for _, tc := range []struct {
		a, b HostPort
		want bool
	}{
		{port(anyAddress, "TCP", 80), port("10.0.0.1", "TCP", 80), true},
		{port("10.0.0.1", "TCP", 80), port("10.0.0.1", "TCP", 80), true},
		{port("10.0.0.1", "TCP", 80), port("10.0.0.2", "TCP", 80), false},
		{port(anyAddress, "TCP", 80), port(anyAddress, "UDP", 80), false},
		{port(anyAddress, "TCP", 80), port(anyAddress, "TCP", 81), false},
	} {
		if tc.a.Conflicts(tc.b) != tc.want || tc.b.Conflicts(tc.a) != tc.want {
			t.Errorf("%v and %v: want %t", tc.a, tc.b, tc.want)
		}
	}
}
