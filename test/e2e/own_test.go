package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"peapod.dev/peapod/test/instance"
)

// TestOwn runs the scripts that need a peapod of their own one after the other, before TestShared's is up: some
// compare the whole machine before and after.
func TestOwn(t *testing.T) {
	binary, archives := needs(t)
	path := tools(t, binary)
	scripts, err := filepath.Glob("testdata/own/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for n, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			pod, err := instance.New(binary, folder(t), n+1)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // runs before the folder's removal, whose success is a check
				if err := pod.Down(context.Background()); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Logf("peapod's log:\n%s", pod.Log())
				}
			})
			t.Run("script", func(t *testing.T) {
				testscript.Run(t, testscript.Params{
					Files: []string{script},
					Setup: func(env *testscript.Env) error {
						setPath(env, path)
						env.Vars = append(env.Vars, pod.Env...)
						env.Setenv("KUBECONFIG", pod.Kubeconfig())
						env.Setenv("ARCHIVES", filepath.Dir(archives[0]))
						env.Setenv("DATA", pod.DataDir())
						env.Setenv("RUN", pod.RunDir())
						env.Setenv("CGROUP", pod.Cgroup())
						env.Setenv("LISTEN", pod.Listen)
						env.Setenv("NODE", instance.NodeName)
						env.Values[instanceKey{}] = pod
						return nil
					},
					Cmds: commands,
				})
			})
		})
	}
}
