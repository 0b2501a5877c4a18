package cli

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"peapod.dev/peapod/internal/engine/image"
)

// run runs a command line and returns its exit code and what it printed.
func run(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	code = exitCode(root.Execute(), &errOut)
	return code, out.String(), errOut.String()
}

func TestWrongCommandLinesExitWithTwo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"upp"}, `unknown command "upp"`},
		{[]string{"--nonsense"}, "unknown flag: --nonsense"},
		{[]string{"image", "nonsense"}, `unknown command "nonsense"`},
		{[]string{"image", "load"}, "requires at least 1 arg"},
		{[]string{"image", "list", "-o", "xml"}, `cannot print as "xml"`},
		{[]string{"version", "3"}, `unknown command "3"`},
		{[]string{"kubectl", "--data-dir"}, "flag needs an argument: --data-dir"},
	} {
		code, stdout, stderr := run(c.args...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, "--help' for usage") {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q; want 2, nothing, and %q", c.args, code, stdout, stderr, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err    error
		code   int
		stderr string
	}{
		{nil, 0, ""},
		{errors.New("cannot do it: no"), 1, "peapod: cannot do it: no\n"},
		{fmt.Errorf("run: %w", &ExitError{Code: 42}), 42, ""},
	} {
		var stderr bytes.Buffer
		if code := exitCode(c.err, &stderr); code != c.code || stderr.String() != c.stderr {
			t.Errorf("%v: exit code %d, stderr %q", c.err, code, stderr.String())
		}
	}
}

func TestEveryVerbHasHelpWithoutNoise(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no short help", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help ends with a full stop", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRoot())
	if code, stdout, stderr := run(); code != 0 || !strings.Contains(stdout, "Available Commands") || stderr != "" {
		t.Errorf("without arguments: exit code %d, stderr %q, stdout %q", code, stderr, stdout)
	}
}

func TestStatusWithoutPeapod(t *testing.T) {
	code, _, stderr := run("status", "--data-dir", t.TempDir())
	if code != 1 || !strings.Contains(stderr, "peapod is not up") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestStatusText(t *testing.T) {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node.Spec.Unschedulable = true
	s := clusterStatus{serverVersion: "v1", nodes: []corev1.Node{node}, phases: map[corev1.PodPhase]int{corev1.PodPending: 1, corev1.PodRunning: 2}}
	var out bytes.Buffer
	if err := s.print(&out, "https://localhost:1", "/data"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"n1, Ready,SchedulingDisabled", "2 Running, 1 Pending", "/data/kubeconfig"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

func TestCutDataDir(t *testing.T) {
	for _, c := range []struct {
		args []string
		dir  string
		rest []string
	}{
		{nil, "", nil},
		{[]string{"get", "pods"}, "", []string{"get", "pods"}},
		{[]string{"--data-dir", "/d", "get"}, "/d", []string{"get"}},
		{[]string{"--data-dir=/d", "get"}, "/d", []string{"get"}},
		{[]string{"exec", "p", "--", "x", "--data-dir", "/d"}, "", []string{"exec", "p", "--", "x", "--data-dir", "/d"}},
	} {
		dir, rest, err := cutDataDir(c.args)
		if err != nil || dir != c.dir || !slices.Equal(rest, c.rest) {
			t.Errorf("%v: %q, %v, %v", c.args, dir, rest, err)
		}
	}
}

func TestPrintImages(t *testing.T) {
	var out bytes.Buffer
	err := printImages(&out, []*image.Image{
		{ID: "sha256:0123456789abcdef", RepoTags: []string{"docker.io/library/busybox:latest", "localhost:5000/b:1"}, Size: 1_500_000},
		{ID: "fedcba9876543210"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "REPOSITORY                  TAG      IMAGE ID       SIZE\n" +
		"docker.io/library/busybox   latest   0123456789ab   1.5MB\n" +
		"localhost:5000/b            1        0123456789ab   1.5MB\n" +
		"<none>                      <none>   fedcba987654   0B\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestSplitTag(t *testing.T) {
	for name, want := range map[string][2]string{
		"busybox:1":              {"busybox", "1"},
		"localhost:5000/busybox": {"localhost:5000/busybox", "<none>"},
		"<none>:<none>":          {"<none>", "<none>"},
	} {
		if repository, tag := splitTag(name); [2]string{repository, tag} != want {
			t.Errorf("%s: %s, %s", name, repository, tag)
		}
	}
}

func TestPullProgressWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newPullProgress(&out, "busybox")
	p.show(image.Progress{Blob: "sha256:0123456789abcdef", Offset: 1, Size: 2, Complete: 1, Total: 2})
	p.show(image.Progress{Blob: "sha256:0123456789abcdef", Offset: 2, Size: 2, Complete: 2, Total: 2, Done: true})
	p.end()
	if want := "pulling busybox: 0123456789ab done, 2B of 2B\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
