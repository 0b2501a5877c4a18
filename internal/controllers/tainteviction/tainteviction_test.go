package tainteviction

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func pod(name string, tolerations ...v1.Toleration) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: v1.PodSpec{NodeName: "n", Tolerations: tolerations}}
}

func tolerates(seconds int64) v1.Toleration {
	t := v1.Toleration{Key: "evict", Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func run(t *testing.T, pods []runtime.Object, test func(w *controllertest.World, taint func(on bool))) {
	objects := append(pods, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	controllertest.Run(t, objects, func(w *controllertest.World) controllertest.Controller {
		return controllertest.Controller{Run: New(w.Client, w.Shared, w.Recorder, w.Log).Run}
	}, func(w *controllertest.World) {
		test(w, func(on bool) {
			n := w.Node("n").DeepCopy()
			n.Spec.Taints = nil
			if on {
				n.Spec.Taints = []v1.Taint{{Key: "evict", Effect: v1.TaintEffectNoExecute}, {Key: "other", Effect: v1.TaintEffectNoSchedule}}
			}
			w.Must(w.Client.CoreV1().Nodes().Update(w.Context(), n, metav1.UpdateOptions{}))
		})
	})
}

func TestEvicts(t *testing.T) {
	run(t, []runtime.Object{pod("none"), pod("always", tolerates(-1)), pod("minute", tolerates(60))}, func(w *controllertest.World, taint func(bool)) {
		taint(true)
		if w.Pod("none") != nil || w.Pod("always") == nil || w.Pod("minute") == nil {
			t.Error("want only the Pod without a toleration to be gone at once")
		}
		if e := w.Events(); e != "Normal TaintManagerEviction Marking for deletion Pod ns/none" {
			t.Errorf("events %q", e)
		}
		time.Sleep(59 * time.Second)
		w.Settle()
		if w.Pod("minute") == nil {
			t.Error("evicted too early")
		}
		time.Sleep(time.Second)
		w.Settle()
		if w.Pod("minute") != nil || w.Pod("always") == nil {
			t.Error("want the second Pod to be gone after its minute")
		}
		w.Must(w.Client.CoreV1().Pods("ns").Create(w.Context(), pod("late"), metav1.CreateOptions{}))
		if w.Pod("late") != nil {
			t.Error("a Pod that comes later stays")
		}
	})
}

func TestEvictionIsCancelled(t *testing.T) {
	run(t, []runtime.Object{pod("p", tolerates(60))}, func(w *controllertest.World, taint func(bool)) {
		taint(true)
		time.Sleep(30 * time.Second)
		taint(false)
		if e := w.Events(); e != "Normal TaintManagerEviction Cancelling deletion of Pod ns/p" {
			t.Errorf("events %q", e)
		}
		time.Sleep(time.Hour)
		w.Settle()
		if w.Pod("p") == nil {
			t.Error("evicted after all")
		}
		taint(true) // the time begins anew
		time.Sleep(59 * time.Second)
		w.Settle()
		if w.Pod("p") == nil {
			t.Error("evicted too early")
		}
		time.Sleep(time.Second)
		w.Settle()
		if w.Pod("p") != nil {
			t.Error("not evicted")
		}
	})
}

func TestConditionBeforeDeletion(t *testing.T) {
	held := pod("p")
	held.Finalizers = []string{"f"}
	run(t, []runtime.Object{held}, func(w *controllertest.World, taint func(bool)) {
		var status v1.PodStatus
		taint(true)
		for _, a := range w.Client.Actions() {
			if a.GetVerb() == "patch" {
				if a.GetSubresource() != "status" {
					t.Errorf("patched %q", a.GetSubresource())
				}
				status.Phase = "patched"
			}
			if a.GetVerb() == "delete" && status.Phase == "" {
				t.Error("deleted before the condition was set")
			}
		}
	})
}
