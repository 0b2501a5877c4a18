package nodelifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func node(name string, ready v1.ConditionStatus, taints ...v1.Taint) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.NodeSpec{Taints: taints},
		Status:     v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: ready, LastHeartbeatTime: metav1.Now()}}},
	}
}

func run(t *testing.T, objects []runtime.Object, test func(w *controllertest.World)) {
	controllertest.Run(t, objects, func(w *controllertest.World) controllertest.Controller {
		loop, leases := New(w.Client, w.Shared, w.Recorder, GracePeriod, w.Log)
		return controllertest.Controller{Run: loop.Run, Informers: []cache.SharedIndexInformer{leases}}
	}, test)
}

// effects returns the Node's taints as "key:effect", sorted.
func effects(n *v1.Node) []string {
	var all []string
	for _, t := range n.Spec.Taints {
		all = append(all, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(all)
	return all
}

func wantTaints(t *testing.T, n *v1.Node, want ...string) {
	t.Helper()
	if got := effects(n); !slices.Equal(got, want) {
		t.Errorf("node %s has the taints %q, want %q", n.Name, got, want)
	}
}

func TestTaintsFollowConditions(t *testing.T) {
	fresh := node("fresh", v1.ConditionTrue, v1.Taint{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}, v1.Taint{Key: "mine", Effect: v1.TaintEffectNoExecute})
	run(t, []runtime.Object{fresh, node("bad", v1.ConditionFalse)}, func(w *controllertest.World) {
		wantTaints(t, w.Node("fresh"), "mine:NoExecute")
		wantTaints(t, w.Node("bad"), "not-ready:NoExecute", "not-ready:NoSchedule")
		n := w.Node("fresh").DeepCopy()
		n.Spec.Unschedulable = true
		n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: v1.NodeDiskPressure, Status: v1.ConditionTrue})
		w.Must(w.Client.CoreV1().Nodes().Update(w.Context(), n, metav1.UpdateOptions{}))
		wantTaints(t, w.Node("fresh"), "disk-pressure:NoSchedule", "mine:NoExecute", "unschedulable:NoSchedule")
		n = w.Node("fresh").DeepCopy()
		n.Spec.Unschedulable, n.Status.Conditions = false, n.Status.Conditions[:1]
		w.Must(w.Client.CoreV1().Nodes().Update(w.Context(), n, metav1.UpdateOptions{}))
		wantTaints(t, w.Node("fresh"), "mine:NoExecute")
		if e := w.Events(); !strings.Contains(e, "Normal RegisteredNode Node bad event: Registered Node bad in Controller") {
			t.Errorf("events %q", e)
		}
	})
}

func TestNobodyIsEvictedWhenNoNodeIsReady(t *testing.T) {
	run(t, []runtime.Object{node("only", v1.ConditionFalse)}, func(w *controllertest.World) {
		wantTaints(t, w.Node("only"), "not-ready:NoSchedule")
		w.Must(w.Client.CoreV1().Nodes().Create(w.Context(), node("good", v1.ConditionTrue), metav1.CreateOptions{}))
		wantTaints(t, w.Node("only"), "not-ready:NoExecute", "not-ready:NoSchedule")
	})
}

func TestSilence(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: v1.PodSpec{NodeName: "n"},
		Status: v1.PodStatus{Phase: v1.PodRunning, StartTime: new(metav1.Now()), Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}}
	done, bound := pod.DeepCopy(), pod.DeepCopy()
	done.Name, done.Status.Phase, done.Status.Conditions = "done", v1.PodSucceeded, nil
	bound.Name, bound.Status = "bound", v1.PodStatus{Phase: v1.PodPending}
	lease := func() *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: "n"},
			Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}}}
	}
	run(t, []runtime.Object{node("n", v1.ConditionTrue), pod, done, bound}, func(w *controllertest.World) {
		leases := w.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
		w.Must(leases.Create(w.Context(), lease(), metav1.CreateOptions{}))
		for range 10 {
			time.Sleep(40 * time.Second)
			w.Must(leases.Update(w.Context(), lease(), metav1.UpdateOptions{}))
		}
		if ready(w.Node("n")) != v1.ConditionTrue {
			t.Fatal("a Node that renews its lease is lost")
		}
		w.Events()
		time.Sleep(GracePeriod - time.Second)
		w.Settle()
		if ready(w.Node("n")) != v1.ConditionTrue {
			t.Error("lost too early")
		}
		time.Sleep(time.Second)
		w.Settle()
		n := w.Node("n")
		if c := n.Status.Conditions[0]; c.Status != v1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			t.Errorf("the condition is %+v", c)
		}
		if len(n.Status.Conditions) != 4 || n.Status.Conditions[1].Reason != "NodeStatusNeverUpdated" {
			t.Errorf("the conditions are %+v", n.Status.Conditions)
		}
		wantTaints(t, n, "unreachable:NoSchedule")
		if c := w.Pod("p").Status.Conditions[0]; c.Status != v1.ConditionFalse {
			t.Errorf("the Pod is Ready=%s", c.Status)
		}
		if s := w.Pod("p").Status; s.Phase != v1.PodUnknown || s.Reason != "NodeLost" || s.Message != "Node n which was running pod p is unresponsive" {
			t.Errorf("the Pod is %s %s %q", s.Phase, s.Reason, s.Message)
		}
		if p := w.Pod("done").Status.Phase; p != v1.PodSucceeded {
			t.Errorf("a Pod that had ended is %s", p)
		}
		if p := w.Pod("bound").Status.Phase; p != v1.PodPending {
			t.Errorf("a Pod that no agent has seen is %s", p)
		}
		// The Pod may be marked twice, which changes nothing, while the cache has not seen the first time.
		e := strings.Join(slices.Compact(strings.Split(w.Events(), "\n")), "\n")
		if e != "Normal NodeNotReady Node n status is now: NodeNotReady\nWarning NodeNotReady Node is not ready" {
			t.Errorf("events %q", e)
		}
		back := w.Node("n").DeepCopy()
		back.Status = node("n", v1.ConditionTrue).Status
		w.Must(w.Client.CoreV1().Nodes().UpdateStatus(w.Context(), back, metav1.UpdateOptions{}))
		wantTaints(t, w.Node("n"))
	})
}
