package cluster

import (
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
	n, _ := s.SetNode(node("a"))
	http := HostPort{IP: anyAddress, Protocol: v1.ProtocolTCP, Port: 80}
	if s.Place(pod("p", "500m", 80), "a") != nil || s.Place(pod("p", "500m", 80), "a") == nil {
		t.Error("the first placement is news, the same again is not")
	}
	s.Place(pod("q", "1", 0), "a")
	if want := (Resources{MilliCPU: 1500, Pods: 2}); !n.Requested.Equal(&want) {
		t.Errorf("requested %v, want %v", n.Requested, want)
	}
	if n.Len() != 2 || !n.Taken(http) {
		t.Errorf("%d Pods, port taken %t", n.Len(), n.Taken(http))
	}
	if s.Place(pod("p", "250m", 80), "a"); n.Requested.MilliCPU != 1250 {
		t.Errorf("a Pod that shrinks leaves %d requested", n.Requested.MilliCPU)
	}
	if s.Place(pod("p", "250m", 80), "b") != nil || n.Taken(http) {
		t.Error("a Pod counts on one Node only")
	}
	none := Resources{}
	if _, at := s.Remove("q"); at != "a" || !n.Requested.Equal(&none) || !n.Estimate.Equal(&none) {
		t.Errorf("left over: %v, %v", n.Requested, n.Estimate)
	}
	if gone, _ := s.Remove("q"); gone != nil {
		t.Error("it was gone")
	}
}

func TestPodsOutliveTheirNode(t *testing.T) {
	s := NewState()
	s.Place(pod("p", "1", 0), "a")
	if s.Node("a") != nil || len(s.Nodes()) != 0 {
		t.Error("a Node that is only named does not exist")
	}
	s.SetNode(node("a"))
	s.SetNode(node("a"))
	s.RemoveNode("a")
	if s.Node("a") != nil || len(s.Nodes()) != 0 {
		t.Error("the Node is gone")
	}
	if n, _ := s.SetNode(node("a")); n.Requested.MilliCPU != 1000 || len(s.Nodes()) != 1 {
		t.Errorf("%d requested: the Pod still counts", n.Requested.MilliCPU)
	}
	s.RemoveNode("a")
	if _, at := s.Remove("p"); at != "a" || len(s.nodes) != 0 {
		t.Errorf("left over: %v", s.nodes)
	}
}

func TestANominationEndsWithThePlacement(t *testing.T) {
	s := NewState()
	n, _ := s.SetNode(node("a"))
	p := pod("p", "1", 0)
	if s.Nominate(p, "a") != "" || s.Nominated("p") != "a" || len(n.nominated) != 1 || n.Len() != 0 {
		t.Error("room is reserved, nothing is used")
	}
	if s.Nominate(p, "b") != "a" || len(n.nominated) != 0 {
		t.Error("there is room on one Node only")
	}
	s.Place(p, "a")
	if s.Nominated("p") != "" || len(s.nodes) != 1 {
		t.Errorf("left over: %v", s.nodes)
	}
}

func TestEpochAndMoves(t *testing.T) {
	s := NewState()
	moves := 0
	s.Moved = func(_ *Pod, _ *Node, sign int) { moves += sign }
	s.Place(pod("p", "1", 0), "a")
	if moves != 0 {
		t.Error("a Node that does not exist has no part in anything")
	}
	s.SetNode(node("a"))
	before := s.Epoch()
	if _, changed := s.SetNode(node("a")); changed || s.Epoch() != before {
		t.Error("a heartbeat changes nothing")
	}
	s.Place(pod("q", "1", 0), "a")
	s.Remove("p")
	if moves != 0 || s.Epoch() != before {
		t.Errorf("one came, one left: %d", moves)
	}
	labeled := node("a")
	labeled.Labels = map[string]string{"zone": "z"}
	if _, changed := s.SetNode(labeled); !changed || s.Epoch() == before {
		t.Error("a label is a change")
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
