// Package e2e runs scripts against bin/peapod with a real kubectl, real containers and a real kernel.
//
// testdata/shared holds scripts that use one peapod which is up for all of them, each in a namespace of its own.
// testdata/own holds scripts that bring up and take down a peapod of their own. Both need root, bin/peapod
// (make build) and the images (make images).
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"peapod.dev/peapod/test/instance"
)

const repository = "../.."

// needs tells where the program and the images are, or skips the test without root.
func needs(t *testing.T) (binary string, archives []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	binary, err := filepath.Abs(filepath.Join(repository, "bin/peapod"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("bin/peapod is not there (run: make build): %v", err)
	}
	images, err := filepath.Abs(filepath.Join(repository, ".images"))
	if err != nil {
		t.Fatal(err)
	}
	archives, _ = filepath.Glob(filepath.Join(images, "*.tar"))
	if len(archives) == 0 {
		t.Fatal(".images has no archive (run: make images)")
	}
	return binary, archives
}

// tools makes a folder with `peapod` and `kubectl` for PATH: the machine's kubectl, else the built-in one.
func tools(t *testing.T, binary string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "peapod")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/usr/bin/kubectl"); err != nil {
		script := "#!/bin/sh\nexec " + binary + " kubectl \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// folder is a temporary folder on a real file system, as container storage wants it, with a short path, as unix
// sockets want it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "peapod-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is left in the instance's folder: %v", err)
		}
	})
	return dir
}

func TestShared(t *testing.T) {
	binary, archives := needs(t)
	pod, err := instance.New(binary, folder(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Load(t.Context(), archives...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("peapod's log:\n%s", pod.Log())
		}
	})
	if _, _, err := pod.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := connect(t, pod.Kubeconfig())
	examples, err := filepath.Abs(filepath.Join(repository, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	path := tools(t, binary)

	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:             "testdata/shared",
			ContinueOnError: false,
			Setup: func(env *testscript.Env) error {
				setPath(env, path)
				env.Vars = append(env.Vars, pod.Env...)
				env.Setenv("EXAMPLES", examples)
				env.Setenv("NODE", instance.NodeName)
				env.Setenv("DATA", pod.DataDir())
				namespace, err := newNamespace(env, client)
				if err != nil {
					return err
				}
				env.Setenv("NAMESPACE", namespace)
				return useNamespace(env, pod.Kubeconfig(), namespace)
			},
			Cmds: commands,
		})
	})
}

func setPath(env *testscript.Env, dir string) {
	env.Setenv("PATH", dir+string(filepath.ListSeparator)+env.Getenv("PATH"))
	env.Setenv("HOME", env.WorkDir) // kubectl keeps a discovery cache there
}

func connect(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// newNamespace makes a namespace for one script and waits for its service account, without which no Pod is admitted.
func newNamespace(env *testscript.Env, client kubernetes.Interface) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	name := "e2e-" + strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	env.Defer(func() {
		grace := int64(0)
		background := metav1.DeletePropagationBackground
		opts := metav1.DeleteOptions{GracePeriodSeconds: &grace, PropagationPolicy: &background}
		_ = client.CoreV1().Pods(name).DeleteCollection(context.Background(), opts, metav1.ListOptions{})
		_ = client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	// A watch without a resource version begins with what is there already.
	w, err := client.CoreV1().ServiceAccounts(name).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", "default").String(),
	})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	select {
	case <-w.ResultChan():
		return name, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// useNamespace gives the script a kubeconfig whose default namespace is its own.
func useNamespace(env *testscript.Env, kubeconfig, namespace string) error {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	config.Contexts[config.CurrentContext].Namespace = namespace
	path := filepath.Join(env.WorkDir, "kubeconfig")
	env.Setenv("KUBECONFIG", path)
	return clientcmd.WriteToFile(*config, path)
}
