package rootca

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func TestPublishes(t *testing.T) {
	ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: v1.NamespaceStatus{Phase: v1.NamespaceActive}}
	controllertest.Run(t, []runtime.Object{ns}, func(w *controllertest.World) controllertest.Controller {
		loop, informer := New(w.Client, w.Shared.Core().V1().Namespaces(), []byte("CERT"), w.Log)
		return controllertest.Controller{Run: loop.Run, Informers: []cache.SharedIndexInformer{informer}}
	}, func(w *controllertest.World) {
		maps := w.Client.CoreV1().ConfigMaps("ns")
		check := func(when string) *v1.ConfigMap {
			t.Helper()
			m, err := maps.Get(w.Context(), "kube-root-ca.crt", metav1.GetOptions{})
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if m.Data["ca.crt"] != "CERT" || len(m.Data) != 1 || m.Annotations["kubernetes.io/description"] == "" {
				t.Errorf("%s: %v %v", when, m.Data, m.Annotations)
			}
			return m
		}
		m := check("created").DeepCopy()
		m.Data, m.Annotations = map[string]string{"ca.crt": "FORGED", "more": ""}, nil
		w.Must(maps.Update(w.Context(), m, metav1.UpdateOptions{}))
		check("changed")
		w.Must(nil, maps.Delete(w.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}))
		check("deleted")
	})
}
