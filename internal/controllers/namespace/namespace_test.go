package namespace

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func served() ([]*metav1.APIResourceList, error) {
	return []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", Namespaced: true, Kind: "Pod", Verbs: metav1.Verbs{"list", "delete"}},
		{Name: "configmaps", Namespaced: true, Kind: "ConfigMap", Verbs: metav1.Verbs{"list", "delete"}},
	}}}, nil
}

func object(kind, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func TestFollowsTheLastPodAtOnce(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	metav1.AddMetaToScheme(scheme) //nolint:errcheck // known types
	meta := metadatafake.NewSimpleMetadataClient(scheme, object("Pod", "p"), object("ConfigMap", "c"))
	stopping := true
	meta.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return stopping, nil, nil })
	grace := int64(30)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: v1.PodSpec{TerminationGracePeriodSeconds: &grace}}
	ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Spec: v1.NamespaceSpec{Finalizers: []v1.FinalizerName{v1.FinalizerKubernetes}}}
	controllertest.Run(t, []runtime.Object{ns, pod}, func(w *controllertest.World) controllertest.Controller {
		return controllertest.Controller{Run: New(w.Client, meta, served, w.Shared, w.Log).Run}
	}, func(w *controllertest.World) {
		get := func() *v1.Namespace {
			n, err := w.Client.CoreV1().Namespaces().Get(w.Context(), "ns", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		configmaps := func() int {
			l, err := meta.Resource(v1.SchemeGroupVersion.WithResource("configmaps")).Namespace("ns").List(w.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(l.Items)
		}
		finalized := func() bool {
			for _, a := range w.Client.Actions() {
				if a.GetSubresource() == "finalize" {
					return true
				}
			}
			return false
		}
		w.Settle()
		if get().Status.Phase == v1.NamespaceTerminating {
			t.Fatal("nobody has deleted it yet")
		}
		going := ns.DeepCopy()
		going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		start := time.Now()
		w.Must(w.Client.CoreV1().Namespaces().Update(w.Context(), going, metav1.UpdateOptions{}))
		if n := get(); n.Status.Phase != v1.NamespaceTerminating || configmaps() != 1 || finalized() {
			t.Errorf("phase %s, %d config maps, finalized %t: the Pod has not ended", n.Status.Phase, configmaps(), finalized())
		}
		stopping = false
		w.Must(nil, w.Client.CoreV1().Pods("ns").Delete(w.Context(), "p", metav1.DeleteOptions{}))
		if configmaps() != 0 || !finalized() {
			t.Errorf("%d config maps, finalized %t: the Pod has ended", configmaps(), finalized())
		}
		if time.Since(start) != 0 {
			t.Error("it took time")
		}
	})
}
