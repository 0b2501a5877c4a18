package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// important returns a Pod of a priority.
func important(name, cpu string, priority int32) *v1.Pod {
	p := newPod(name, cpu)
	p.Spec.Priority = &priority
	return p
}

func placed(p *v1.Pod, node string) *v1.Pod {
	p.Spec.NodeName = node
	start := metav1.Now()
	p.Status.StartTime = &start
	return p
}

// graceful has deleted Pods stay, on their way out, until w.end.
func (w *world) graceful() {
	w.client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		d := action.(clienttesting.DeleteAction)
		w.deletions = append(w.deletions, d.GetName())
		obj, err := w.client.Tracker().Get(v1.SchemeGroupVersion.WithResource("pods"), d.GetNamespace(), d.GetName())
		if err != nil {
			return true, nil, err
		}
		p := obj.(*v1.Pod).DeepCopy()
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		return true, nil, w.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), p, p.Namespace)
	})
}

func (w *world) end(name string) {
	w.Helper()
	if err := w.client.Tracker().Delete(v1.SchemeGroupVersion.WithResource("pods"), "ns", name); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *world) wantEvent(want string) {
	w.Helper()
	var others []string
	for {
		select {
		case got := <-w.events.Events:
			if got == want {
				return
			}
			others = append(others, got)
		default:
			w.Errorf("no event %q among %q", want, others)
			return
		}
	}
}

func TestPreemption(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "2"), placed(important("low", "1", 1), "n"), placed(important("mid", "1", 5), "n")}, func(w *world) {
		w.graceful()
		w.create(important("high", "1", 10))
		const found = "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n, preempting 1 victims"
		w.wantCondition("high", "Unschedulable", found)
		if got := w.pod("high").Status.NominatedNodeName; got != "n" {
			t.Errorf("nominated node %q", got)
		}
		if fmt.Sprint(w.deletions) != "[low]" {
			t.Errorf("deleted %v", w.deletions)
		}
		w.wantDisrupted("low")
		w.wantEvent("Warning FailedScheduling " + found)

		// The same Pod evicts nobody else while it waits, a less important one does not take its room, an equal one finds none.
		w.change("high", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k"}} })
		w.create(important("less", "500m", 2))
		w.end("low")
		w.wantOn("high", "n")
		w.wantOn("less", "")
		if fmt.Sprint(w.deletions) != "[low]" {
			t.Errorf("deleted %v", w.deletions)
		}
	})
}

func (w *world) wantDisrupted(name string) {
	w.Helper()
	for _, c := range w.pod(name).Status.Conditions {
		if c.Type == v1.DisruptionTarget {
			if c.Status != v1.ConditionTrue || c.Reason != "PreemptionByScheduler" || c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
				w.Errorf("condition %+v", c)
			}
			return
		}
	}
	w.Errorf("Pod %s has no condition DisruptionTarget", name)
}

func TestPreemptedEvent(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n")}, func(w *world) {
		w.create(important("high", "1", 10))
		w.wantOn("high", "n") // the fake API server deletes at once
		w.wantEvent("Normal Preempted Preempted by pod high on node n")
		w.wantEvent("Normal Scheduled Successfully assigned ns/high to n")
	})
}

func TestWaitingForVictims(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n")}, func(w *world) {
		w.graceful()
		w.create(important("high", "1", 10))
		w.change("high", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k"}} })
		w.wantCondition("high", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node.")
		if got := w.pod("high").Status.NominatedNodeName; got != "n" {
			t.Errorf("nominated node %q", got)
		}
	})
}

func TestAMoreImportantPodTakesTheRoom(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n")}, func(w *world) {
		w.graceful()
		w.create(important("high", "1", 10))
		w.create(important("higher", "1", 20))
		if w.pod("high").Status.NominatedNodeName != "" || w.pod("higher").Status.NominatedNodeName != "n" {
			t.Errorf("nominated: high %q, higher %q", w.pod("high").Status.NominatedNodeName, w.pod("higher").Status.NominatedNodeName)
		}
		w.end("low")
		w.wantOn("higher", "n")
		w.wantOn("high", "")
	})
}

func TestRoomOfANominatedPodThatGoesIsFree(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n")}, func(w *world) {
		w.graceful()
		w.create(important("high", "1", 10))
		w.create(important("less", "1", 0))
		w.end("low")
		w.wantOn("high", "n")
		w.end("high")
		w.wantOn("less", "n")
	})
}

func TestNobodyIsEvicted(t *testing.T) {
	never := important("p", "1", 10)
	never.Spec.PreemptionPolicy = ptr.To(v1.PreemptNever)
	for name, tc := range map[string]struct {
		pod  *v1.Pod
		want string
	}{
		"never":     {never, " preemption: not eligible due to preemptionPolicy=Never."},
		"as equal":  {important("p", "1", 5), noVictims},
		"too large": {important("p", "3", 10), notHelpful},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, []runtime.Object{newNode("n", "2"), placed(important("a", "1", 5), "n"), placed(important("b", "1", 5), "n"), tc.pod}, func(w *world) {
				w.wantCondition("p", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."+tc.want)
				w.pod("a")
				w.pod("b")
			})
		})
	}
}

func TestChoiceOfVictims(t *testing.T) {
	guarded := important("guarded", "1", 1)
	guarded.Labels = map[string]string{"app": "db"}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: guarded.Labels}}}
	for name, tc := range map[string]struct {
		there []*v1.Pod
		want  string
	}{
		"fewest violations":       {[]*v1.Pod{placed(guarded, "n"), placed(important("other", "1", 9), "m")}, "other"},
		"lowest highest priority": {[]*v1.Pod{placed(important("a", "1", 3), "n"), placed(important("b", "1", 2), "m")}, "b"},
		"fewest": {[]*v1.Pod{placed(important("a", "500m", 2), "n"), placed(important("b", "500m", 2), "n"),
			placed(important("c", "1", 2), "m")}, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{newNode("n", "1"), newNode("m", "1"), budget}
			for _, p := range tc.there {
				objects = append(objects, p.DeepCopy())
			}
			in(t, objects, func(w *world) {
				w.graceful()
				w.create(important("p", "1", 10))
				if fmt.Sprint(w.deletions) != "["+tc.want+"]" {
					t.Errorf("deleted %v, want %s", w.deletions, tc.want)
				}
			})
		})
	}
}

func TestAFailedEvictionIsRepeated(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n")}, func(w *world) {
		fail := true
		w.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return fail, nil, errors.New("no luck")
		})
		w.create(important("high", "1", 10))
		w.wantOn("high", "")
		fail = false
		time.Sleep(firstBackoff)
		w.settle()
		w.wantOn("high", "n")
	})
}

func TestRoomThatANodeGrowsIsEnoughWithAnEviction(t *testing.T) {
	in(t, []runtime.Object{newNode("n", "1"), placed(important("low", "1", 1), "n"), important("high", "2", 10)}, func(w *world) {
		w.wantOn("high", "")
		w.node("n", func(n *v1.Node) { n.Status = newNode("n", "2").Status })
		w.wantOn("high", "n")
	})
}

func TestCompanyElsewhere(t *testing.T) {
	labeled := func(p *v1.Pod, app string) *v1.Pod {
		p.Labels = map[string]string{"app": app}
		return p
	}
	zone := func(name, value string) *v1.Node {
		n := newNode(name, "2")
		n.Labels = map[string]string{"zone": value, v1.LabelHostname: name}
		return n
	}
	term := func(app string) []v1.PodAffinityTerm {
		return []v1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
	}
	near, far, shunned, even := newPod("p", ""), newPod("p", ""), labeled(newPod("p", ""), "web"), labeled(newPod("p", ""), "web")
	near.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term("db")}}
	far.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term("db")}}
	hermit := newPod("hermit", "")
	hermit.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term("web")}}
	even.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	full := zone("b", "1")
	full.Spec.Unschedulable = true
	gone := func(name string) func(w *world) { return func(w *world) { w.end(name) } }
	for name, tc := range map[string]struct {
		pod   *v1.Pod
		nodes []runtime.Object
		there []*v1.Pod
		why   string
		help  func(w *world)
	}{
		"affinity": {near, []runtime.Object{zone("a", "1"), full}, nil, "1 node(s) didn't match pod affinity rules",
			func(w *world) { w.create(placed(labeled(newPod("db", ""), "db"), "b")) }},
		"affinity by a label": {near, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(labeled(newPod("db", ""), "x"), "b")},
			"1 node(s) didn't match pod affinity rules", func(w *world) { w.change("db", func(p *v1.Pod) { p.Labels["app"] = "db" }) }},
		"anti-affinity": {far, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(labeled(newPod("db", ""), "db"), "b")},
			"1 node(s) didn't match pod anti-affinity rules", gone("db")},
		"anti-affinity of another": {shunned, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(hermit, "b")},
			"1 node(s) didn't satisfy existing pods anti-affinity rules", gone("hermit")},
		"own label": {shunned, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(hermit, "b")},
			"1 node(s) didn't satisfy existing pods anti-affinity rules", func(w *world) { w.change("p", func(p *v1.Pod) { p.Labels = nil }) }},
		"spread": {even, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(labeled(newPod("web", ""), "web"), "a")},
			"1 node(s) didn't match pod topology spread constraints", gone("web")},
		"spread, another place": {even, []runtime.Object{zone("a", "1"), full}, []*v1.Pod{placed(labeled(newPod("web", ""), "web"), "a")},
			"1 node(s) didn't match pod topology spread constraints",
			func(w *world) { w.create(placed(labeled(newPod("web2", ""), "web"), "b")) }},
		"node label": {near, []runtime.Object{zone("a", "2"), full}, []*v1.Pod{placed(labeled(newPod("db", ""), "db"), "b")},
			"1 node(s) didn't match pod affinity rules", func(w *world) { w.node("b", func(n *v1.Node) { n.Labels["zone"] = "2" }) }},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{tc.pod.DeepCopy()}
			for _, o := range tc.nodes {
				objects = append(objects, o.DeepCopyObject())
			}
			for _, p := range tc.there {
				objects = append(objects, p.DeepCopy())
			}
			in(t, objects, func(w *world) {
				w.wantOn("p", "")
				if got := w.message("p"); !strings.Contains(got, tc.why) {
					t.Errorf("message %q does not say %q", got, tc.why)
				}
				start := time.Now()
				tc.help(w)
				w.wantOn("p", "a")
				if time.Since(start) != 0 {
					t.Error("it took time")
				}
			})
		})
	}
}

func (w *world) message(name string) string {
	w.Helper()
	for _, c := range w.pod(name).Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c.Message
		}
	}
	return ""
}
