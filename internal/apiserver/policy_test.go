package apiserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"peapod.dev/peapod/internal/apiserver"
)

// privilegedPSP is the manifest of that name in upstream's documentation until 1.24.
const privilegedPSP = `{"apiVersion":"policy/v1beta1","kind":"PodSecurityPolicy",
 "metadata":{"name":"privileged","annotations":{"seccomp.security.alpha.kubernetes.io/allowedProfileNames":"*"}},
 "spec":{"privileged":true,"allowPrivilegeEscalation":true,"allowedCapabilities":["*"],"volumes":["*"],"hostNetwork":true,
  "hostPorts":[{"min":0,"max":65535}],"hostIPC":true,"hostPID":true,"runAsUser":{"rule":"RunAsAny"},"seLinux":{"rule":"RunAsAny"},
  "supplementalGroups":{"rule":"RunAsAny"},"fsGroup":{"rule":"RunAsAny"}}}`

func policies(t *testing.T, s *apiserver.Server) dynamic.ResourceInterface {
	t.Helper()
	c := dynamic.NewForConfigOrDie(s.LoopbackConfig())
	return c.Resource(schema.GroupVersionResource{Group: "policy", Version: "v1beta1", Resource: "podsecuritypolicies"})
}

func createPolicy(t *testing.T, s *apiserver.Server, manifest string) {
	t.Helper()
	var o unstructured.Unstructured
	if err := json.Unmarshal([]byte(manifest), &o); err != nil {
		t.Fatal(err)
	}
	if _, err := policies(t, s).Create(t.Context(), &o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestPodSecurityPolicyAPI(t *testing.T) {
	dir := t.TempDir()
	s, stop := run(t, dir)
	psp, ctx := policies(t, s), t.Context()
	createPolicy(t, s, strings.Replace(privilegedPSP, `"allowPrivilegeEscalation":true,`, "", 1))
	get := func() string {
		t.Helper()
		o, err := psp.Get(ctx, "privileged", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if managed := o.GetManagedFields(); len(managed) == 0 {
			t.Error("nobody manages the fields")
		}
		spec, _ := json.Marshal(o.Object["spec"])
		return string(spec)
	}
	if got := get(); !strings.Contains(got, `"allowPrivilegeEscalation":true`) || !strings.Contains(got, `"hostPorts":[{"max":65535,"min":0}]`) {
		t.Errorf("defaulted to %s", got)
	}
	for kind, patch := range map[types.PatchType]string{
		types.MergePatchType:          `{"spec":{"hostPID":false}}`,
		types.StrategicMergePatchType: `{"spec":{"hostIPC":false}}`,
		types.JSONPatchType:           `[{"op":"replace","path":"/spec/hostNetwork","value":false}]`,
		types.ApplyPatchType: `{"apiVersion":"policy/v1beta1","kind":"PodSecurityPolicy","metadata":{"name":"privileged"},` +
			`"spec":{"hostPorts":[{"min":8000,"max":8080}]}}`,
	} {
		yes := true
		opts := metav1.PatchOptions{FieldManager: "test"}
		if kind == types.ApplyPatchType {
			opts.Force = &yes
		}
		if _, err := psp.Patch(ctx, "privileged", kind, []byte(patch), opts); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	want := get()
	if strings.Contains(want, "hostPID") || strings.Contains(want, "hostIPC") || strings.Contains(want, "hostNetwork") || !strings.Contains(want, `{"max":8080,"min":8000}`) {
		t.Errorf("patched to %s", want)
	}
	_, err := psp.Patch(ctx, "privileged", types.MergePatchType, []byte(`{"spec":{"hostPorts":[{"min":9,"max":8},{"min":-1,"max":65536}]}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.hostPorts[0].min: Invalid value: 9: min cannot be greater than max") ||
		!strings.Contains(err.Error(), "spec.hostPorts[1].max: Invalid value: 65536") {
		t.Errorf("got %v", err)
	}
	stop()

	s = start(t, dir)
	psp = policies(t, s)
	if got := get(); got != want {
		t.Errorf("stored as %s, not %s", got, want)
	}
	var table metav1.Table
	err = admin(t, s).RESTClient().Get().AbsPath("/apis/policy/v1beta1/podsecuritypolicies").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Into(&table)
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, d := range table.ColumnDefinitions {
		columns = append(columns, d.Name)
	}
	if got := strings.ToUpper(strings.Join(columns, " ")); got != "NAME PRIV CAPS SELINUX RUNASUSER FSGROUP SUPGROUP READONLYROOTFS VOLUMES" {
		t.Errorf("columns %q", got)
	}
	if got := fmt.Sprint(table.Rows[0].Cells); got != "[privileged true * RunAsAny RunAsAny RunAsAny RunAsAny false *]" {
		t.Errorf("cells %v", got)
	}
	if err := psp.Delete(ctx, "privileged", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPodSecurityPolicyKinds(t *testing.T) {
	s := start(t, t.TempDir())
	paths, err := admin(t, s).Discovery().OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := paths["apis/policy/v1beta1"].Schema("application/json")
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Components struct {
			Schemas map[string]struct {
				Kinds []schema.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
			}
		}
	}
	if err := json.Unmarshal(doc, &spec); err != nil {
		t.Fatal(err)
	}
	kinds := spec.Components.Schemas["io.k8s.api.policy.v1beta1.PodSecurityPolicy"].Kinds
	if len(kinds) != 1 || kinds[0] != (schema.GroupVersionKind{Group: "policy", Version: "v1beta1", Kind: "PodSecurityPolicy"}) {
		t.Errorf("kinds %v", kinds)
	}
}

func TestPodSecurityPolicyIsEnforced(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	ctx := t.Context()
	_, err := c.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "edit"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "alice"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.LoopbackConfig()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "alice"}
	alice := kubernetes.NewForConfigOrDie(cfg)
	port := func(name string, port int32) *corev1.Pod {
		pod := newPod(name)
		pod.Spec.HostNetwork = true
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port}}
		return pod
	}
	eventually(t, func() bool {
		_, err := alice.CoreV1().Pods(ns).Create(ctx, port("free", 1), metav1.CreateOptions{})
		return err == nil
	})
	createPolicy(t, s, strings.NewReplacer(`"name":"privileged"`, `"name":"ports"`, `{"min":0,"max":65535}`, `{"min":8000,"max":8080}`).Replace(privilegedPSP))
	eventually(t, func() bool {
		_, err = alice.CoreV1().Pods(ns).Create(ctx, port("none", 8000), metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil
	})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `neither user "alice" nor service account "default" may use any policy`) {
		t.Errorf("got %v", err)
	}
	_, err = c.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "ports"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"policy"}, Resources: []string{"podsecuritypolicies"}, ResourceNames: []string{"ports"}, Verbs: []string{"use"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ports"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "ports"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "default"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		_, err := alice.CoreV1().Pods(ns).Create(ctx, port("p8000", 8000), metav1.CreateOptions{})
		return err == nil
	})
	for p, want := range map[int32]bool{7999: false, 8080: true, 8081: false} {
		pod, err := alice.CoreV1().Pods(ns).Create(ctx, port(fmt.Sprint("p", p), p), metav1.CreateOptions{})
		if want && (err != nil || pod.Annotations["kubernetes.io/psp"] != "ports") {
			t.Errorf("%d: %v, %v", p, pod.Annotations, err)
		}
		text := fmt.Sprintf(`pods "p%d" is forbidden: PodSecurityPolicy: unable to admit pod: [ports: spec.containers[0].hostPort: `+
			`Invalid value: %d: Host port %d is not allowed to be used. Allowed ports: [8000-8080]]`, p, p, p)
		if !want && (!apierrors.IsForbidden(err) || err.Error() != text) {
			t.Errorf("got  %v\nwant %s", err, text)
		}
	}
}

// warnings remembers what the server warns of.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }

func TestPodSecurityStandards(t *testing.T) {
	s := start(t, t.TempDir())
	ctx, yes := t.Context(), true
	cfg := s.LoopbackConfig()
	var heard warnings
	cfg.WarningHandler = &heard
	c := kubernetes.NewForConfigOrDie(cfg)
	pods := map[string]*corev1.Pod{"privileged": newPod("x"), "baseline": newPod("x"), "restricted": newPod("x")}
	pods["privileged"].Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	no := false
	pods["restricted"].Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pods["restricted"].Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	levels := []string{"privileged", "baseline", "restricted"}
	for i, level := range levels {
		enforced := namespace(t, c, map[string]string{"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": "v1.37"})
		warned := namespace(t, c, map[string]string{"pod-security.kubernetes.io/warn": level})
		for j, needs := range levels {
			_, err := c.CoreV1().Pods(enforced).Create(ctx, pods[needs], metav1.CreateOptions{DryRun: []string{"All"}})
			if allowed := j >= i; allowed != (err == nil) || (!allowed && !strings.Contains(err.Error(), `violates PodSecurity "`+level+`:v1.37"`)) {
				t.Errorf("a Pod that needs %s where %s is enforced: %v", needs, level, err)
			}
			heard = nil
			if _, err := c.CoreV1().Pods(warned).Create(ctx, pods[needs], metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
				t.Error(err)
			}
			if warned := strings.Contains(strings.Join(heard, "\n"), `would violate PodSecurity "`+level+`:latest"`); warned != (j < i) {
				t.Errorf("a Pod that needs %s where %s is warned of: %q", needs, level, heard)
			}
		}
	}
}

// TestStandardsStandBesidePolicies: what a policy allows a namespace's label may still refuse, and the other way round.
func TestStandardsStandBesidePolicies(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	createPolicy(t, s, privilegedPSP)
	ns := namespace(t, c, map[string]string{"pod-security.kubernetes.io/enforce": "baseline"})
	pod, yes := newPod("x"), true
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	if _, err := c.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("got %v", err)
	}
	createPod(t, c, ns, newPod("y"))
}
