package resourcequota

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metadatafake "k8s.io/client-go/metadata/fake"

	"peapod.dev/peapod/internal/controllers/controllertest"
)

func served() ([]*metav1.APIResourceList, error) {
	all := metav1.Verbs{"create", "list", "watch", "delete"}
	return []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", Namespaced: true, Kind: "Pod", Verbs: all},
		{Name: "configmaps", Namespaced: true, Kind: "ConfigMap", Verbs: all},
		{Name: "podtemplates", Namespaced: true, Kind: "PodTemplate", Verbs: all},
	}}}, nil
}

func object(kind, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func pod(name, cpu string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: v1.PodSpec{Containers: []v1.Container{{
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}}}
}

func TestCounts(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	metav1.AddMetaToScheme(scheme) //nolint:errcheck // known types
	meta := metadatafake.NewSimpleMetadataClient(scheme, object("ConfigMap", "a"), object("ConfigMap", "b"), object("PodTemplate", "c"))
	hard := v1.ResourceList{}
	for name, amount := range map[v1.ResourceName]string{"pods": "5", "requests.cpu": "2", "configmaps": "9", "count/podtemplates": "9", "services": "1"} {
		hard[name] = resource.MustParse(amount)
	}
	quota := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: v1.ResourceQuotaSpec{Hard: hard}}
	controllertest.Run(t, []runtime.Object{pod("p", "500m"), pod("q", "1")}, func(w *controllertest.World) controllertest.Controller {
		return controllertest.Controller{Run: New(w.Client, meta, served, w.Shared, w.Log).Run}
	}, func(w *controllertest.World) {
		check := func(want map[v1.ResourceName]string) {
			t.Helper()
			w.Settle()
			q, err := w.Client.CoreV1().ResourceQuotas("ns").Get(w.Context(), "q", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for name, amount := range want {
				if got := q.Status.Used[name]; got.Cmp(resource.MustParse(amount)) != 0 {
					t.Errorf("%s: %s used, want %s", name, got.String(), amount)
				}
			}
			if len(q.Status.Used) != len(want) || len(q.Status.Hard) != len(hard) {
				t.Errorf("status %+v", q.Status)
			}
		}
		w.Must(w.Client.CoreV1().ResourceQuotas("ns").Create(w.Context(), quota, metav1.CreateOptions{}))
		check(map[v1.ResourceName]string{"pods": "2", "requests.cpu": "1500m", "configmaps": "2", "count/podtemplates": "1"})
		w.Must(nil, w.Client.CoreV1().Pods("ns").Delete(w.Context(), "p", metav1.DeleteOptions{}))
		w.Must(nil, meta.Resource(v1.SchemeGroupVersion.WithResource("configmaps")).Namespace("ns").Delete(w.Context(), "a", metav1.DeleteOptions{}))
		check(map[v1.ResourceName]string{"pods": "1", "requests.cpu": "1", "configmaps": "1", "count/podtemplates": "1"})
	})
}
