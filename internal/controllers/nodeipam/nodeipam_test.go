package nodeipam

import (
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func node(name, cidr string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if cidr != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	}
	return n
}

func TestAllocates(t *testing.T) {
	controllertest.Run(t, []runtime.Object{node("a", "10.88.1.0/24")}, func(w *controllertest.World) controllertest.Controller {
		loop := New(w.Client, w.Shared.Core().V1().Nodes(), netip.MustParsePrefix("10.88.0.0/22"), w.Recorder, w.Log)
		return controllertest.Controller{Run: loop.Run}
	}, func(w *controllertest.World) {
		want := func(name, cidr string) {
			t.Helper()
			if n := w.Node(name); n.Spec.PodCIDR != cidr || cidr != "" && (len(n.Spec.PodCIDRs) != 1 || n.Spec.PodCIDRs[0] != cidr) {
				t.Errorf("node %s has %q %q, want %q", name, n.Spec.PodCIDR, n.Spec.PodCIDRs, cidr)
			}
		}
		for _, name := range []string{"b", "c", "d", "e"} {
			w.Must(w.Client.CoreV1().Nodes().Create(w.Context(), node(name, ""), metav1.CreateOptions{}))
		}
		want("a", "10.88.1.0/24")
		want("b", "10.88.0.0/24")
		want("c", "10.88.2.0/24")
		want("d", "10.88.3.0/24")
		want("e", "")
		if e := w.Events(); !strings.Contains(e, "CIDRNotAvailable") {
			t.Errorf("events %q", e)
		}
		w.Must(nil, w.Client.CoreV1().Nodes().Delete(w.Context(), "a", metav1.DeleteOptions{}))
		want("e", "10.88.1.0/24")
	})
}

func TestNext(t *testing.T) {
	for addr, tc := range map[string]struct {
		bits int
		want string
	}{
		"10.0.255.0":      {24, "10.1.0.0"},
		"10.0.0.128":      {25, "10.0.1.0"},
		"10.0.0.0":        {12, "10.16.0.0"},
		"255.255.255.0":   {24, "invalid IP"},
		"fd00:0:0:ffff::": {64, "fd00:0:1::"},
	} {
		if got := next(netip.MustParseAddr(addr), tc.bits).String(); got != tc.want {
			t.Errorf("after %s/%d comes %s, want %s", addr, tc.bits, got, tc.want)
		}
	}
}
