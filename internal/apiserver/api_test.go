package apiserver_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"peapod.dev/peapod/internal/apiserver"
)

func admin(t testing.TB, s *apiserver.Server) *kubernetes.Clientset {
	t.Helper()
	kubeconfig, err := s.AdminKubeconfig("https://" + s.Address())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return kubernetes.NewForConfigOrDie(cfg)
}

// namespace makes a namespace with the service account that a controller would make, for the life of the test.
func namespace(t testing.TB, c kubernetes.Interface, labels map[string]string) string {
	t.Helper()
	ns, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := c.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
}

func createPod(t testing.TB, c kubernetes.Interface, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	pod, err := c.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestPrivilegedContainersAreTaken(t *testing.T) {
	c := admin(t, start(t, t.TempDir()))
	pod, yes := newPod("privileged"), true
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	createPod(t, c, namespace(t, c, nil), pod)
}

func TestPodLife(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	pods := c.CoreV1().Pods(ns)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	w, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect := func(kind watch.EventType) *corev1.Pod {
		t.Helper()
		e, ok := <-w.ResultChan()
		if !ok || e.Type != kind {
			t.Fatalf("got event %v %v, want %v", e.Type, e.Object, kind)
		}
		return e.Object.(*corev1.Pod)
	}

	pod := newPod("web")
	pod.Spec.PriorityClassName = "system-node-critical"
	pod = createPod(t, c, ns, pod)
	expect(watch.Added)
	if pod.Status.Phase != corev1.PodPending || pod.Spec.ServiceAccountName != "default" || *pod.Spec.Priority != 2000001000 ||
		len(pod.Spec.Tolerations) != 2 || pod.Status.QOSClass != corev1.PodQOSBestEffort || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("not as admission and defaulting make it: %+v", pod)
	}
	if len(pod.Spec.Volumes) != 1 || pod.Spec.Volumes[0].Projected == nil {
		t.Errorf("no service account token volume: %+v", pod.Spec.Volumes)
	}

	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := expect(watch.Modified); got.Spec.NodeName != "node-1" {
		t.Errorf("bound to %q", got.Spec.NodeName)
	}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}

	patch := []byte(`{"status":{"phase":"Running","podIP":"10.88.0.2","podIPs":[{"ip":"10.88.0.2"}]}}`)
	if _, err := pods.Patch(ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if got := expect(watch.Modified); got.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %v", got.Status.Phase)
	}
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-1", LabelSelector: "app=web"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("got %v, %v", list, err)
	}

	zero := int64(0)
	if err := pods.Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	expect(watch.Modified) // the deletion timestamp
	expect(watch.Deleted)
	if _, err := pods.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestWrites(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	ctx := t.Context()
	pods, maps := c.CoreV1().Pods(ns), c.CoreV1().ConfigMaps(ns)

	t.Run("server-side apply", func(t *testing.T) {
		apply := func(manager, key string, force bool) (*corev1.ConfigMap, error) {
			return maps.Apply(ctx, corev1apply.ConfigMap("cm", ns).WithData(map[string]string{"k": key}),
				metav1.ApplyOptions{FieldManager: manager, Force: force})
		}
		if _, err := apply("one", "a", false); err != nil {
			t.Fatal(err)
		}
		if _, err := apply("two", "b", false); !apierrors.IsConflict(err) {
			t.Errorf("no conflict: %v", err)
		}
		if cm, err := apply("two", "b", true); err != nil || cm.Data["k"] != "b" {
			t.Errorf("got %v, %v", cm, err)
		}
		if _, err := pods.Apply(ctx, corev1apply.Pod("applied", ns).WithSpec(corev1apply.PodSpec().WithContainers(
			corev1apply.Container().WithName("c").WithImage("busybox"))), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
			t.Error(err)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		if _, err := pods.Create(ctx, newPod("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Fatal(err)
		}
		if _, err := pods.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("field validation", func(t *testing.T) {
		err := c.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Param("fieldValidation", "Strict").
			Body([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i","imagee":1}]}}`)).
			SetHeader("Content-Type", "application/json").Do(ctx).Error()
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.containers[0].imagee"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("validation", func(t *testing.T) {
		pod := newPod("Bad_Name")
		pod.Spec.Containers[0].Image = ""
		_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.containers[0].image: Required value") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("resize", func(t *testing.T) {
		createPod(t, c, ns, newPod("resize"))
		patch := []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"10m"}}}]}}`)
		_, err := pods.Patch(ctx, "resize", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "resize")
		if err == nil || !strings.Contains(err.Error(), "Pod QOS Class may not change as a result of resizing") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("limit range", func(t *testing.T) {
		lr := &corev1.LimitRange{}
		if err := json.Unmarshal([]byte(`{"metadata":{"name":"lr"},"spec":{"limits":[{"type":"Container","default":{"memory":"64Mi"}}]}}`), lr); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CoreV1().LimitRanges(ns).Create(ctx, lr, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { // the plugin reads an informer
			pod, err := pods.Create(ctx, newPod("limited"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err == nil && pod.Spec.Containers[0].Resources.Limits.Memory().String() == "64Mi"
		})
	})
	t.Run("pod security", func(t *testing.T) {
		restricted := namespace(t, c, map[string]string{"pod-security.kubernetes.io/enforce": "baseline"})
		pod := newPod("host")
		pod.Spec.HostNetwork = true
		if _, err := c.CoreV1().Pods(restricted).Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("namespace that is not there", func(t *testing.T) {
		if _, err := c.CoreV1().Pods("nowhere").Create(ctx, newPod("x"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEvictionRespectsBudget(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	ctx := t.Context()
	createPod(t, c, ns, newPod("web"))
	patch := []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := c.CoreV1().Pods(ns).Patch(ctx, "web", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	one := intstr.FromInt32(1)
	pdb, err := c.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allow := func(n int32) { // as the disruption controller would
		t.Helper()
		pdb.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: pdb.Generation, DisruptionsAllowed: n}
		if pdb, err = c.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, pdb, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}}
	allow(0)
	if err := c.PolicyV1().Evictions(ns).Evict(ctx, eviction); !apierrors.IsTooManyRequests(err) {
		t.Errorf("got %v", err)
	}
	allow(1)
	if err := c.PolicyV1().Evictions(ns).Evict(ctx, eviction); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s")
		}
	}
}

// The field is behind a feature gate upstream, whose default drops it without a word.
func TestStopSignalIsKept(t *testing.T) {
	c := admin(t, start(t, t.TempDir()))
	pod := newPod("signals")
	pod.Spec.OS = &corev1.PodOS{Name: corev1.Linux}
	signal := corev1.SIGUSR1
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{StopSignal: &signal}
	got, err := c.CoreV1().Pods(namespace(t, c, nil)).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l := got.Spec.Containers[0].Lifecycle; l == nil || l.StopSignal == nil || *l.StopSignal != signal {
		t.Errorf("lifecycle is %v, want stopSignal %s", l, signal)
	}
}
