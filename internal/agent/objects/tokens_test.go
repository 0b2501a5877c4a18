package objects

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// tokenServer answers token requests with token-1, token-2, …, unless refuse is set.
type tokenServer struct {
	asked  atomic.Int32
	refuse atomic.Pointer[error]
	last   atomic.Pointer[authenticationv1.TokenRequest]
}

func (s *tokenServer) client() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		n := s.asked.Add(1)
		if err := s.refuse.Load(); err != nil {
			return true, nil, *err
		}
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		s.last.Store(request.DeepCopy())
		time.Sleep(time.Millisecond) // so that concurrent callers meet
		request.Status.Token = fmt.Sprintf("token-%d", n)
		request.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second))
		return true, request, nil
	})
	return client
}

func podWithToken() (*v1.Pod, *v1.ServiceAccountTokenProjection) {
	projection := &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(3600)), Audience: "vault"}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "uid"},
		Spec: v1.PodSpec{ServiceAccountName: "default", Volumes: []v1.Volume{{Name: "t", VolumeSource: v1.VolumeSource{
			Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ServiceAccountToken: projection}}}}}}},
	}, projection
}

func TestTokenIsCachedAndRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server tokenServer
		var due atomic.Int32
		c := New(Config{Client: server.client(), Changed: func(pods []types.UID) { due.Add(1) }})
		defer c.Close()
		pod, projection := podWithToken()
		c.Prefetch(pod)
		for range 3 {
			go c.Token(t.Context(), pod, projection)
		}
		if got, err := c.Token(t.Context(), pod, projection); err != nil || got != "token-1" {
			t.Fatalf("Token = %q, %v", got, err)
		}
		ref := server.last.Load().Spec.BoundObjectRef
		if *ref != (authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "pod", UID: "uid"}) {
			t.Errorf("bound to %v", ref)
		}
		time.Sleep(47 * time.Minute)
		if got, _ := c.Token(t.Context(), pod, projection); got != "token-1" || due.Load() != 0 {
			t.Errorf("before 80 %% of its life: %q, due %d", got, due.Load())
		}
		time.Sleep(time.Minute + time.Second)
		if due.Load() != 1 {
			t.Errorf("due %d times, want 1", due.Load())
		}
		if got, _ := c.Token(t.Context(), pod, projection); got != "token-2" || server.asked.Load() != 2 {
			t.Errorf("after 80 %% of its life: %q, asked %d times", got, server.asked.Load())
		}
		c.Unregister("uid")
		time.Sleep(24 * time.Hour)
		if due.Load() != 1 || len(c.byPod) != 0 {
			t.Errorf("after Unregister: due %d, left %v", due.Load(), c.byPod)
		}
	})
}

func TestTokenRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server tokenServer
		c := New(Config{Client: server.client()})
		defer c.Close()
		pod, projection := podWithToken()
		if _, err := c.Token(t.Context(), pod, projection); err != nil {
			t.Fatal(err)
		}
		refusal := errors.New("connection refused")
		server.refuse.Store(&refusal)
		time.Sleep(50 * time.Minute)
		if got, err := c.Token(t.Context(), pod, projection); err != nil || got != "token-1" {
			t.Errorf("while the old one is valid: %q, %v", got, err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := c.Token(t.Context(), pod, projection); err == nil || err.Error() != "failed to fetch token: connection refused" {
			t.Errorf("after it expired: %v", err)
		}
		server.refuse.Store(nil)
		if got, err := c.Token(t.Context(), pod, projection); err != nil || !strings.HasPrefix(got, "token-") {
			t.Errorf("once the server answers again: %q, %v", got, err)
		}
	})
}

func TestTokenRefusedUntilBindingIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server tokenServer
		refusal := error(apierrors.NewForbidden(v1.Resource("serviceaccounts"), "default", errors.New("pod not found")))
		server.refuse.Store(&refusal)
		c := New(Config{Client: server.client()})
		defer c.Close()
		pod, projection := podWithToken()
		time.AfterFunc(20*time.Millisecond, func() { server.refuse.Store(nil) })
		start := time.Now()
		if _, err := c.Token(t.Context(), pod, projection); err != nil || time.Since(start) > 50*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
