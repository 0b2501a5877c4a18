package disruption

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func pod(name string, ready v1.ConditionStatus) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "a"}},
		Status: v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: ready}}}}
}

func budget(min, max *intstr.IntOrString) *policy.PodDisruptionBudget {
	return &policy.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b", Generation: 3},
		Spec: policy.PodDisruptionBudgetSpec{MinAvailable: min, MaxUnavailable: max, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}}}
}

func run(t *testing.T, objects []runtime.Object, test func(w *controllertest.World, status func() policy.PodDisruptionBudgetStatus)) {
	controllertest.Run(t, objects, func(w *controllertest.World) controllertest.Controller {
		return controllertest.Controller{Run: New(w.Client, w.Shared, w.Recorder, w.Log).Run}
	}, func(w *controllertest.World) {
		test(w, func() policy.PodDisruptionBudgetStatus {
			w.Settle()
			b, err := w.Client.PolicyV1().PodDisruptionBudgets("ns").Get(w.Context(), "b", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return b.Status
		})
	})
}

func check(t *testing.T, s policy.PodDisruptionBudgetStatus, allowed, healthy, desired, expected int32) {
	t.Helper()
	if s.DisruptionsAllowed != allowed || s.CurrentHealthy != healthy || s.DesiredHealthy != desired || s.ExpectedPods != expected || s.ObservedGeneration != 3 {
		t.Errorf("got %+v, want %d allowed, %d healthy, %d desired, %d expected", s, allowed, healthy, desired, expected)
	}
	want := metav1.ConditionFalse
	if allowed > 0 {
		want = metav1.ConditionTrue
	}
	if len(s.Conditions) != 1 || s.Conditions[0].Status != want {
		t.Errorf("conditions %+v", s.Conditions)
	}
}

func TestMinAvailable(t *testing.T) {
	two := intstr.FromInt32(2)
	run(t, []runtime.Object{budget(&two, nil), pod("a", v1.ConditionTrue), pod("b", v1.ConditionTrue), pod("c", v1.ConditionFalse)},
		func(w *controllertest.World, status func() policy.PodDisruptionBudgetStatus) {
			check(t, status(), 0, 2, 2, 3)
			w.Must(w.Client.CoreV1().Pods("ns").UpdateStatus(w.Context(), pod("c", v1.ConditionTrue), metav1.UpdateOptions{}))
			check(t, status(), 1, 3, 2, 3)
			w.Must(nil, w.Client.CoreV1().Pods("ns").Delete(w.Context(), "a", metav1.DeleteOptions{}))
			check(t, status(), 0, 2, 2, 2)
		})
}

func TestEvictedPodThatStays(t *testing.T) {
	one := intstr.FromInt32(1)
	b := budget(&one, nil)
	run(t, []runtime.Object{pod("a", v1.ConditionTrue), pod("b", v1.ConditionTrue)}, func(w *controllertest.World, status func() policy.PodDisruptionBudgetStatus) {
		b.Status.DisruptedPods = map[string]metav1.Time{"a": metav1.Now()}
		w.Must(w.Client.PolicyV1().PodDisruptionBudgets("ns").Create(w.Context(), b, metav1.CreateOptions{}))
		check(t, status(), 0, 1, 1, 2)
		time.Sleep(deletionTimeout)
		check(t, status(), 1, 2, 1, 2)
		if len(status().DisruptedPods) != 0 {
			t.Error("the Pod is still on the list")
		}
	})
}

func TestBarePodsHaveNoScale(t *testing.T) {
	one := intstr.FromInt32(1)
	run(t, []runtime.Object{budget(nil, &one), pod("a", v1.ConditionTrue)}, func(w *controllertest.World, status func() policy.PodDisruptionBudgetStatus) {
		check(t, status(), 0, 1, 0, 0)
		if e := w.Events(); !strings.Contains(e, "UnmanagedPods") {
			t.Errorf("events %q", e)
		}
	})
}

func TestUnknownController(t *testing.T) {
	half, yes := intstr.FromString("50%"), true
	owned := pod("a", v1.ConditionTrue)
	owned.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "r", Controller: &yes}}
	run(t, []runtime.Object{budget(&half, nil), owned}, func(w *controllertest.World, status func() policy.PodDisruptionBudgetStatus) {
		c := status().Conditions
		if len(c) != 1 || c[0].Reason != policy.SyncFailedReason || c[0].Message != `found no controllers for pod "a"` {
			t.Errorf("conditions %+v", c)
		}
	})
}
