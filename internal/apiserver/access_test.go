package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"peapod.dev/peapod/internal/apiserver"
)

// tokenConfig is for a client with nothing but a bearer token, or nothing at all.
func tokenConfig(s *apiserver.Server, token string) *rest.Config {
	return &rest.Config{Host: "https://" + s.Address(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: s.CA()}}
}

func TestAnonymousSeesHealthAndVersionOnly(t *testing.T) {
	s := start(t, t.TempDir())
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/": 403, "/api": 403, "/apis": 403, "/openapi/v2": 403, "/openapi/v3": 403, "/metrics": 403, "/configz": 403,
		"/api/v1/namespaces/default/pods": 403, "/debug/pprof/": 403, "/.well-known/openid-configuration": 403,
	} {
		resp, err := c.Get("https://" + s.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s, want %d", path, resp.Status, body, want)
		}
		if path == "/version" && !strings.Contains(string(body), `"gitVersion": "v1.37.2+peapod.test"`) {
			t.Errorf("version %s", body)
		}
	}
	if _, err := kubernetes.NewForConfigOrDie(tokenConfig(s, "junk")).Discovery().ServerVersion(); !apierrors.IsUnauthorized(err) {
		t.Errorf("a bad token: %v", err)
	}
}

func TestServiceAccountToken(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	ctx := t.Context()
	pod := createPod(t, c, ns, newPod("web"))
	token, err := c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: "web", UID: pod.UID,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sa := kubernetes.NewForConfigOrDie(tokenConfig(s, token.Status.Token))
	me, err := sa.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "system:serviceaccount:"+ns+":default" {
		t.Fatalf("got %+v, %v", me, err)
	}
	if _, err := sa.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("listed without a role: %v", err)
	}
	_, err = c.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "view"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "default", Namespace: ns}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, err := sa.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); return err == nil })
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "get", Resource: "secrets"},
	}}
	review, err = sa.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil || review.Status.Allowed {
		t.Errorf("view reads secrets: %+v, %v", review, err)
	}
	// Nobody grants what they do not have.
	_, err = sa.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("escalated: %v", err)
	}

	zero := int64(0)
	if err := c.CoreV1().Pods(ns).Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { // the token dies with the Pod
		_, err := sa.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		return apierrors.IsUnauthorized(err)
	})
}

func TestNodeDoesOnlyItsOwnThings(t *testing.T) {
	s := start(t, t.TempDir())
	c := kubernetes.NewForConfigOrDie(s.LoopbackConfig())
	node := kubernetes.NewForConfigOrDie(s.NodeConfig("node-1"))
	ns := namespace(t, c, nil)
	ctx := t.Context()

	if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("registered another node: %v", err)
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	if _, err := node.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"mine", "theirs"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := c.CoreV1().Secrets(ns).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pod := newPod(name)
		pod.Spec.NodeName = map[string]string{"mine": "node-1", "theirs": "node-2"}[name]
		pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
		createPod(t, c, ns, pod)
	}
	eventually(t, func() bool {
		_, err := node.CoreV1().Secrets(ns).Get(ctx, "mine", metav1.GetOptions{})
		return err == nil
	})
	if _, err := node.CoreV1().Secrets(ns).Get(ctx, "theirs", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("read another node's secret: %v", err)
	}
	if _, err := node.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-1"}); err != nil {
		t.Error(err)
	}
	if err := node.CoreV1().Pods(ns).Delete(ctx, "theirs", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deleted another node's pod: %v", err)
	}
}

func TestKubectl(t *testing.T) {
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl")
	}
	s := start(t, t.TempDir())
	ns := namespace(t, admin(t, s), nil)
	data, err := s.AdminKubeconfig("https://" + s.Address())
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	kubeconfig := filepath.Join(home, "kubeconfig")
	if err := os.WriteFile(kubeconfig, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"-n", ns}, args...)...)
		cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + home, "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("kubectl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	manifest, err := json.Marshal(&corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: newPod("web").Spec})
	if err != nil {
		t.Fatal(err)
	}
	if out := run(string(manifest), "apply", "-f", "-"); out != "pod/web created\n" {
		t.Errorf("apply: %q", out)
	}
	if out := run("", "get", "pods"); !strings.Contains(out, "NAME   READY   STATUS    RESTARTS") {
		t.Errorf("get: %q", out)
	}
	if out := run("", "explain", "pod.spec.hostAliases.ip"); !strings.Contains(out, "IP address of the host file entry.") {
		t.Errorf("explain: %q", out)
	}
	if out := run("", "describe", "pod", "web"); !strings.Contains(out, "Image:        busybox") {
		t.Errorf("describe: %q", out)
	}
	if out := run("", "auth", "can-i", "create", "pods"); out != "yes\n" {
		t.Errorf("can-i: %q", out)
	}
	if out := run("", "delete", "pod", "web", "--force", "--grace-period=0"); !strings.Contains(out, `pod "web" force deleted`) {
		t.Errorf("delete: %q", out)
	}
}
