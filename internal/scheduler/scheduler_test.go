package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
)

// world is a scheduler with an API server that binds Pods as the real one does.
type world struct {
	*testing.T
	client *fake.Clientset
	events *events.FakeRecorder
	refuse error // what the next binding fails with

	deletions []string // in the order of the requests, where graceful
}

// in runs a test in a bubble with its own clock; every w.settle waits until nothing moves any more.
func in(t *testing.T, objects []runtime.Object, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, client: fake.NewClientset(objects...), events: events.NewFakeRecorder(1000)}
		w.client.PrependReactor("create", "pods", w.bind)
		ctx, cancel := context.WithCancel(t.Context())
		shared := informers.NewSharedInformerFactory(w.client, 0)
		s := New(Config{Client: w.client, Informers: shared, Recorder: w.events, Log: slog.New(slog.DiscardHandler)})
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		w.settle()
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		shared.Shutdown()
	})
}

func (w *world) bind(action clienttesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "binding" {
		return false, nil, nil
	}
	if err := w.refuse; err != nil {
		w.refuse = nil
		return true, nil, err
	}
	b := action.(clienttesting.CreateAction).GetObject().(*v1.Binding)
	obj, err := w.client.Tracker().Get(v1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
	if err != nil {
		return true, nil, err
	}
	p := obj.(*v1.Pod).DeepCopy()
	p.Spec.NodeName = b.Target.Name
	return true, b, w.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), p, p.Namespace)
}

func (w *world) settle() { synctest.Wait() }

func (w *world) pod(name string) *v1.Pod {
	w.Helper()
	p, err := w.client.CoreV1().Pods("ns").Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return p
}

func (w *world) create(p *v1.Pod) {
	w.Helper()
	if _, err := w.client.CoreV1().Pods("ns").Create(w.Context(), p, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *world) change(name string, f func(*v1.Pod)) {
	w.Helper()
	p := w.pod(name)
	f(p)
	if _, err := w.client.CoreV1().Pods("ns").Update(w.Context(), p, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *world) node(name string, f func(*v1.Node)) {
	w.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	f(n)
	if _, err := w.client.CoreV1().Nodes().Update(w.Context(), n, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *world) wantOn(name, node string) {
	w.Helper()
	if got := w.pod(name).Spec.NodeName; got != node {
		w.Errorf("Pod %s is on %q, want %q", name, got, node)
	}
}

func (w *world) wantCondition(name, reason, message string) {
	w.Helper()
	for _, c := range w.pod(name).Status.Conditions {
		if c.Type == v1.PodScheduled {
			if c.Status != v1.ConditionFalse || c.Reason != reason || c.Message != message {
				w.Errorf("Pod %s: got %s %s: %s\nwant %s: %s", name, c.Status, c.Reason, c.Message, reason, message)
			}
			return
		}
	}
	w.Errorf("Pod %s has no condition PodScheduled", name)
}

// requests counts the requests that change Pods.
func (w *world) requests() int {
	n := 0
	for _, a := range w.client.Actions() {
		if a.GetResource().Resource == "pods" && (a.GetVerb() == "patch" || a.GetSubresource() == "binding") {
			n++
		}
	}
	return n
}

func newPod(name, cpu string) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Generation: 1},
		Spec:       v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{Name: "c"}}},
	}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	}
	return p
}

func newNode(name, cpu string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110"),
	}}}
}

const noVictims = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
const notHelpful = " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."

func TestBurstFillsTheNodeAndNoMore(t *testing.T) {
	objects := []runtime.Object{newNode("n", "4")}
	for i := range 60 {
		objects = append(objects, newPod(fmt.Sprintf("p%02d", i), "100m"))
	}
	in(t, objects, func(w *world) {
		bound := 0
		for i := range 60 {
			name := fmt.Sprintf("p%02d", i)
			if w.pod(name).Spec.NodeName == "n" {
				bound++
			} else {
				w.wantCondition(name, "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."+noVictims)
			}
		}
		if bound != 40 {
			t.Errorf("%d Pods are bound, want 40", bound)
		}
	})
}

func TestPodsSpreadOverNodes(t *testing.T) {
	in(t, []runtime.Object{newNode("a", "4"), newNode("b", "4")}, func(w *world) {
		count := map[string]int{}
		for i := range 6 {
			name := fmt.Sprintf("p%d", i)
			w.create(newPod(name, ""))
			count[w.pod(name).Spec.NodeName]++
		}
		if count["a"] != 3 || count["b"] != 3 {
			t.Errorf("got %v", count)
		}
	})
}

func TestMessages(t *testing.T) {
	selects := newPod("p", "")
	selects.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	never := newPod("p", "3")
	policy := v1.PreemptNever
	never.Spec.PreemptionPolicy = &policy
	tainted, cordoned := newNode("b", "2"), newNode("c", "2")
	tainted.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}
	cordoned.Spec.Unschedulable = true
	for name, tc := range map[string]struct {
		pod   *v1.Pod
		nodes []runtime.Object
		want  string
	}{
		"no nodes":      {newPod("p", ""), nil, "no nodes available to schedule pods"},
		"selector":      {selects, []runtime.Object{newNode("a", "2")}, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + notHelpful},
		"too big":       {newPod("p", "3"), []runtime.Object{newNode("a", "2")}, "0/1 nodes are available: 1 Insufficient cpu." + notHelpful},
		"never preempt": {never, []runtime.Object{newNode("a", "2")}, "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		"several nodes": {newPod("p", "3"), []runtime.Object{newNode("a", "2"), tainted, cordoned},
			"0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. " +
				"preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, append([]runtime.Object{tc.pod.DeepCopy()}, tc.nodes...), func(w *world) {
				w.wantCondition("p", "Unschedulable", tc.want)
				if got, want := <-w.events.Events, "Warning FailedScheduling "+tc.want; got != want {
					t.Errorf("event %q\nwant  %q", got, want)
				}
			})
		})
	}
}

func TestTriedAgainAtOnceWhenItHelps(t *testing.T) {
	selects := newPod("p", "")
	selects.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	tainted, cordoned := newNode("n", "2"), newNode("n", "2")
	tainted.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}
	cordoned.Spec.Unschedulable = true
	other := newPod("other", "2")
	other.Spec.NodeName = "n"
	ports := newPod("p", "")
	ports.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80}}
	holder := newPod("other", "")
	holder.Spec.NodeName, holder.Spec.Containers[0].Ports = "n", ports.Spec.Containers[0].Ports
	gated := newPod("p", "")
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}}
	for name, tc := range map[string]struct {
		pod     *v1.Pod
		objects []runtime.Object
		help    func(w *world)
	}{
		"label":    {selects, []runtime.Object{newNode("n", "2")}, func(w *world) { w.node("n", func(n *v1.Node) { n.Labels = selects.Spec.NodeSelector }) }},
		"taint":    {newPod("p", ""), []runtime.Object{tainted}, func(w *world) { w.node("n", func(n *v1.Node) { n.Spec.Taints = nil }) }},
		"uncordon": {newPod("p", ""), []runtime.Object{cordoned}, func(w *world) { w.node("n", func(n *v1.Node) { n.Spec.Unschedulable = false }) }},
		"capacity": {newPod("p", "3"), []runtime.Object{newNode("n", "2")}, func(w *world) { w.node("n", func(n *v1.Node) { n.Status = newNode("n", "4").Status }) }},
		"gone":     {newPod("p", "1"), []runtime.Object{newNode("n", "2"), other}, func(w *world) { w.client.CoreV1().Pods("ns").Delete(w.Context(), "other", metav1.DeleteOptions{}) }},
		"ended":    {newPod("p", "1"), []runtime.Object{newNode("n", "2"), other}, func(w *world) { w.change("other", func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }) }},
		"port":     {ports, []runtime.Object{newNode("n", "2"), holder}, func(w *world) { w.client.CoreV1().Pods("ns").Delete(w.Context(), "other", metav1.DeleteOptions{}) }},
		"new node": {newPod("p", ""), nil, func(w *world) {
			w.client.CoreV1().Nodes().Create(w.Context(), newNode("n", "2"), metav1.CreateOptions{})
		}},
		"toleration": {newPod("p", ""), []runtime.Object{tainted}, func(w *world) {
			w.change("p", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}} })
		}},
		"gate": {gated, []runtime.Object{newNode("n", "2")}, func(w *world) { w.change("p", func(p *v1.Pod) { p.Spec.SchedulingGates = nil }) }},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{tc.pod.DeepCopy()}
			for _, o := range tc.objects {
				objects = append(objects, o.DeepCopyObject())
			}
			in(t, objects, func(w *world) {
				w.wantOn("p", "")
				start := time.Now()
				tc.help(w)
				w.settle()
				w.wantOn("p", "n")
				if time.Since(start) != 0 {
					t.Error("it took time")
				}
			})
		})
	}
}

func TestNotTriedWhenNothingHelps(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "2"), newPod("p", "3")}, func(w *world) {
		before := w.requests()
		w.node("n", func(n *v1.Node) { n.Labels = map[string]string{"a": "b"} })
		w.change("p", func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} })
		time.Sleep(time.Hour)
		w.settle()
		if after := w.requests(); before != 1 || after != 1 {
			t.Errorf("%d requests, then %d; want the one that set the condition", before, after)
		}
	})
}

func TestLeavesOthersPodsAlone(t *testing.T) {
	named, foreign, gated, deleted := newPod("named", ""), newPod("foreign", ""), newPod("gated", ""), newPod("deleted", "")
	named.Spec.NodeName = "elsewhere"
	foreign.Spec.SchedulerName = "mine"
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}}
	deleted.DeletionTimestamp, deleted.Finalizers = &metav1.Time{Time: time.Now()}, []string{"f"}
	in(t, []runtime.Object{newNode("n", "2"), named, foreign, gated, deleted}, func(w *world) {
		if n := w.requests(); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestAPodThatNamesItsNodeCounts(t *testing.T) {
	named := newPod("named", "2")
	named.Spec.NodeName = "n" // also before the Node exists
	in(t, []runtime.Object{named, newPod("p", "1")}, func(w *world) {
		w.client.CoreV1().Nodes().Create(w.Context(), newNode("n", "2"), metav1.CreateOptions{})
		w.settle()
		w.wantCondition("p", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."+noVictims)
	})
}

func TestImportantPodsFirst(t *testing.T) {
	high := int32(10)
	low, important := newPod("a", "2"), newPod("z", "2")
	important.Spec.Priority = &high
	in(t, []runtime.Object{low, important}, func(w *world) {
		w.client.CoreV1().Nodes().Create(w.Context(), newNode("n", "2"), metav1.CreateOptions{})
		w.settle()
		w.wantOn("z", "n")
		w.wantOn("a", "")
	})
}

func TestFailedBindingIsRepeatedLater(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "2")}, func(w *world) {
		w.refuse = errors.New("no luck")
		w.create(newPod("p", "2"))
		w.wantOn("p", "")
		w.wantCondition("p", "SchedulerError", `running Bind plugin "DefaultBinder": no luck`)
		time.Sleep(firstBackoff - time.Millisecond)
		w.settle()
		w.wantOn("p", "")
		time.Sleep(time.Millisecond)
		w.settle()
		w.wantOn("p", "n")
		<-w.events.Events
		if got := <-w.events.Events; got != "Normal Scheduled Successfully assigned ns/p to n" {
			t.Errorf("event %q", got)
		}
	})
}

func TestAFailedBindingFreesTheNode(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "2")}, func(w *world) {
		w.refuse = errors.New("no luck")
		w.create(newPod("p", "2"))
		w.create(newPod("q", "2"))
		w.wantOn("q", "n")
		time.Sleep(mostBackoff)
		w.settle()
		w.wantCondition("p", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."+noVictims)
	})
}

func TestTheSameMessageIsShownOnce(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "2"), newPod("p", "3")}, func(w *world) {
		w.change("p", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k"}} })
		if n := len(w.events.Events); n != 1 {
			t.Errorf("%d events, want 1", n)
		}
	})
}

func TestLongMessagesAreCut(t *testing.T) {
	if got := truncate(strings.Repeat("x", 2000)); len(got) != maxNote || !strings.HasSuffix(got, " ...") {
		t.Errorf("got %d bytes", len(got))
	}
}
