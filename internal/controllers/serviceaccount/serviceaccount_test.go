package serviceaccount

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func namespace(name string, phase v1.NamespacePhase) *v1.Namespace {
	return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NamespaceStatus{Phase: phase}}
}

func TestDefaultAccount(t *testing.T) {
	objects := []runtime.Object{namespace("old", v1.NamespaceActive), namespace("going", v1.NamespaceTerminating)}
	controllertest.Run(t, objects, func(w *controllertest.World) controllertest.Controller {
		return controllertest.Controller{Run: New(w.Client, w.Shared, w.Log).Run}
	}, func(w *controllertest.World) {
		has := func(ns string) bool {
			_, err := w.Client.CoreV1().ServiceAccounts(ns).Get(w.Context(), "default", metav1.GetOptions{})
			return err == nil
		}
		w.Must(w.Client.CoreV1().Namespaces().Create(w.Context(), namespace("new", v1.NamespaceActive), metav1.CreateOptions{}))
		if !has("old") || !has("new") || has("going") {
			t.Errorf("old %t, new %t, going %t", has("old"), has("new"), has("going"))
		}
		w.Must(nil, w.Client.CoreV1().ServiceAccounts("new").Delete(w.Context(), "default", metav1.DeleteOptions{}))
		if !has("new") {
			t.Error("the account did not come back")
		}
	})
}
