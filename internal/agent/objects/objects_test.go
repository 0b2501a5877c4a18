package objects

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func podWith(uid string, configMap, secret string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-" + uid, UID: types.UID(uid)}}
	if configMap != "" {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: "c", VolumeSource: v1.VolumeSource{
			ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: configMap}}}})
	}
	if secret != "" {
		pod.Spec.Containers = []v1.Container{{EnvFrom: []v1.EnvFromSource{{
			SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: secret}}}}}}
	}
	return pod
}

func configMap(name, version, value string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: version}, Data: map[string]string{"k": value}}
}

func countActions(client *fake.Clientset, verb string) (n int) {
	for _, action := range client.Actions() {
		if action.GetVerb() == verb {
			n++
		}
	}
	return n
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("c", "10", "old"))
		var changes [][]types.UID
		c := New(Config{Client: client, Changed: func(pods []types.UID) { changes = append(changes, pods) }})
		defer c.Close()

		if _, err := c.ConfigMap(t.Context(), "ns", "c"); err == nil || !strings.Contains(err.Error(), "not registered") {
			t.Errorf("before Register: %v", err)
		}
		c.Register(podWith("a", "c", "s"))
		c.Register(podWith("b", "c", ""))
		c.Register(podWith("b", "c", ""))
		got, err := c.ConfigMap(t.Context(), "ns", "c")
		if err != nil || got.Data["k"] != "old" {
			t.Fatalf("ConfigMap = %v, %v", got, err)
		}
		if _, err := c.Secret(t.Context(), "ns", "s"); !apierrors.IsNotFound(err) || err.Error() != `secret "s" not found` {
			t.Errorf("absent Secret: %v", err)
		}
		synctest.Wait()
		if n := countActions(client, "watch"); n != 2 {
			t.Errorf("%d watches, want one for each object", n)
		}
		if len(changes) != 0 {
			t.Errorf("changes before anything changed: %v", changes)
		}

		if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), configMap("c", "20", "new"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, err := c.ConfigMap(t.Context(), "ns", "c"); err != nil || got.Data["k"] != "new" {
			t.Errorf("after an update: %v, %v", got, err)
		}
		if len(changes) != 1 || len(changes[0]) != 2 || changes[0][0] != "a" || changes[0][1] != "b" {
			t.Errorf("changes = %v, want [[a b]]", changes)
		}

		secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}
		if _, err := client.CoreV1().Secrets("ns").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := c.Secret(t.Context(), "ns", "s"); err != nil || len(changes) != 2 {
			t.Errorf("after it appeared: %v, changes %v", err, changes)
		}
		if err := client.CoreV1().Secrets("ns").Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := c.Secret(t.Context(), "ns", "s"); !apierrors.IsNotFound(err) || len(changes) != 3 {
			t.Errorf("after it disappeared: %v, changes %v", err, changes)
		}

		c.Unregister("a")
		if _, err := c.ConfigMap(t.Context(), "ns", "c"); err != nil {
			t.Errorf("while one Pod still refers to it: %v", err)
		}
		c.Unregister("b")
		c.Unregister("b")
		if len(c.items) != 0 || len(c.pods) != 0 {
			t.Errorf("left behind: %v %v", c.items, c.pods)
		}
	})
}

func TestOldVersionsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, configMap("c", "20", "new"), nil
		})
		client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &v1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "12"}, Items: []v1.ConfigMap{*configMap("c", "10", "old")}}, nil
		})
		c := New(Config{Client: client, Changed: func([]types.UID) { t.Error("an old version is no change") }})
		defer c.Close()
		c.Register(podWith("a", "c", ""))
		synctest.Wait()
		if got, err := c.ConfigMap(t.Context(), "ns", "c"); err != nil || got.Data["k"] != "new" {
			t.Errorf("ConfigMap = %v, %v", got, err)
		}
	})
}

func TestImmutableIsNotWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		object := configMap("c", "10", "v")
		object.Immutable = new(true)
		client := fake.NewClientset(object)
		c := New(Config{Client: client})
		defer c.Close()
		c.Register(podWith("a", "c", ""))
		if _, err := c.ConfigMap(t.Context(), "ns", "c"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := countActions(client, "watch"); n != 0 {
			t.Errorf("%d watches of an immutable object", n)
		}
	})
}

func TestRefusalIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("c", "10", "v"))
		allowed := false
		client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return !allowed, nil, apierrors.NewForbidden(v1.Resource("configmaps"), "c", errors.New("no relationship found"))
		})
		c := New(Config{Client: client})
		defer c.Close()
		c.Register(podWith("a", "c", ""))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := c.ConfigMap(ctx, "ns", "c"); !apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), "failed to sync configmap cache: ") {
			t.Errorf("while refused: %v", err)
		}
		allowed = true
		start := time.Now()
		if _, err := c.ConfigMap(t.Context(), "ns", "c"); err != nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("once allowed: %v after %v", err, time.Since(start))
		}
	})
}
