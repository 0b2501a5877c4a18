package podgc

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func pod(name, node string, phase v1.PodPhase) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: v1.PodSpec{NodeName: node}, Status: v1.PodStatus{Phase: phase}}
}

func deleted(p *v1.Pod) *v1.Pod {
	p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Now()}, []string{"f"}
	return p
}

func build(w *controllertest.World) controllertest.Controller {
	return controllertest.Controller{Run: newLoop(w.Client, w.Shared, w.Log, 2).Run}
}

func TestPodsOfANodeThatIsGone(t *testing.T) {
	objects := []runtime.Object{&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, pod("a", "n", v1.PodRunning), pod("b", "never", v1.PodRunning)}
	controllertest.Run(t, objects, build, func(w *controllertest.World) {
		time.Sleep(quarantine / 2)
		w.Must(nil, w.Client.CoreV1().Nodes().Delete(w.Context(), "n", metav1.DeleteOptions{}))
		time.Sleep(quarantine/2 - time.Second)
		w.Settle()
		if w.Pod("a") == nil || w.Pod("b") == nil {
			t.Error("deleted before the quarantine was over")
		}
		time.Sleep(time.Second)
		w.Settle()
		if w.Pod("a") == nil || w.Pod("b") != nil {
			t.Error("want only b to be gone")
		}
		time.Sleep(quarantine / 2)
		w.Settle()
		if w.Pod("a") != nil {
			t.Error("want a to be gone")
		}
	})
}

func TestANodeThatComesBackKeepsItsPods(t *testing.T) {
	objects := []runtime.Object{pod("a", "n", v1.PodRunning)}
	controllertest.Run(t, objects, build, func(w *controllertest.World) {
		w.Must(w.Client.CoreV1().Nodes().Create(w.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}))
		time.Sleep(time.Hour)
		w.Settle()
		if w.Pod("a") == nil {
			t.Error("a is gone")
		}
	})
}

func TestDeletedPodsThatNobodyWillEnd(t *testing.T) {
	away := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "away"}, Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: v1.TaintNodeOutOfService, Effect: v1.TaintEffectNoExecute}}}}
	objects := []runtime.Object{away, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		deleted(pod("unplaced", "", v1.PodPending)), deleted(pod("lost", "away", v1.PodRunning)), deleted(pod("normal", "n", v1.PodRunning))}
	controllertest.Run(t, objects, build, func(w *controllertest.World) {
		if p := w.Pod("unplaced"); p == nil || p.Status.Phase != v1.PodPending {
			t.Error("the API server had no time to end the Pod itself")
		}
		time.Sleep(patience)
		w.Settle()
		for _, name := range []string{"unplaced", "lost"} {
			if p := w.Pod(name); p != nil && p.Status.Phase != v1.PodFailed {
				t.Errorf("Pod %s is %s", name, p.Status.Phase)
			}
		}
		if p := w.Pod("normal"); p == nil || p.Status.Phase != v1.PodRunning {
			t.Error("the Pod of a Node that is there was touched")
		}
	})
}

func TestOldestOfTooMany(t *testing.T) {
	var objects []runtime.Object
	for i := range 4 {
		p := pod(fmt.Sprintf("p%d", i), "", v1.PodSucceeded)
		p.CreationTimestamp = metav1.Unix(int64(1000+i), 0)
		objects = append(objects, p)
	}
	evicted := pod("evicted", "", v1.PodFailed)
	evicted.CreationTimestamp, evicted.Status.Reason = metav1.Unix(5000, 0), "Evicted"
	objects = append(objects, evicted, pod("running", "", v1.PodRunning))
	controllertest.Run(t, objects, build, func(w *controllertest.World) {
		for name, want := range map[string]bool{"evicted": false, "p0": false, "p1": false, "p2": true, "p3": true, "running": true} {
			if got := w.Pod(name) != nil; got != want {
				t.Errorf("Pod %s is there: %t", name, got)
			}
		}
	})
}
