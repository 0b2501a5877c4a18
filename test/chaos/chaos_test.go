// Package chaos kills peapod at its fault points (internal/fault), one at a time, while Pods start, run, end, start anew
// and are deleted, and checks after the next `up` that nothing of them was lost, done twice or left behind.
//
// It needs root, bin/peapod-faults (make faults) and the images (make images). It takes a few points, with -all all.
package chaos

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"peapod.dev/peapod/test/instance"
)

var (
	all  = flag.Bool("all", false, "kill at all points, where several come by also at a later one")
	show = flag.Bool("show", false, "say which points there are")
	only = flag.String("points", "", "kill at these points only, separated by commas: NAME or NAME:N, for the Nth time there")
)

// few are the points at which most depends on what comes next: they are killed at in every run of the tests.
var few = []string{
	"monitor started:2", "start recorded", "container ended:2", "before KillContainer", "container killed",
}

const repository = "../.."

// The names in the environment of a peapod that is built with faults.
const (
	faultEnv = "PEAPOD_FAULT"
	traceEnv = "PEAPOD_FAULT_TRACE"
)

// newInstance prepares a peapod with faults that has the image and is taken down with the test.
func newInstance(t *testing.T) *instance.Instance {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	binary, err := filepath.Abs(filepath.Join(repository, "bin/peapod-faults"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("bin/peapod-faults is not there (run: make faults): %v", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "peapod-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is left in the instance's folder: %v", err)
		}
	})
	pod, err := instance.New(binary, dir, 40)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := filepath.Abs(filepath.Join(repository, ".images/busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Load(t.Context(), archive); err != nil {
		t.Fatalf("%v (run: make images)", err)
	}
	t.Cleanup(func() {
		if err := pod.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return pod
}

func TestKill(t *testing.T) {
	pod := newInstance(t)
	points := few
	switch {
	case *only != "":
		points = strings.Split(*only, ",")
	case *all || *show:
		points = trace(t, pod)
	}
	if *show {
		t.Log(strings.Join(points, "\n"))
		return
	}
	env := pod.Env
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, " ", "_"), func(t *testing.T) {
			l := &life{t: t, pod: pod, armed: append(slices.Clone(env), faultEnv+"="+point), unarmed: env}
			l.run()
			if !l.fired {
				t.Errorf("the daemon never came to %q", point)
			}
		})
	}
}

// TestDown takes peapod down where it has ended at a point, without coming up in between: nothing may be left.
func TestDown(t *testing.T) {
	points := []string{"cable plugged:2", "monitor started", "runtime created container:2"}
	if *all {
		points = append(points, "sandbox folders made", "namespaces made", "sandbox init started", "root filesystem mounted",
			"container recorded", "exit recorded", "before TeardownVolumes", "network taken down")
	}
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, " ", "_"), func(t *testing.T) {
			pod := newInstance(t)
			l := &life{t: t, pod: pod, unarmed: pod.Env, armed: append(slices.Clone(pod.Env), faultEnv+"="+point), stays: true}
			l.begin()
			l.wait("see the daemon end", func(context.Context) error {
				if !l.fired {
					return errors.New("it runs")
				}
				return nil
			})
			if err := pod.Down(t.Context()); err != nil {
				t.Error(err)
			}
			if err := os.RemoveAll(filepath.Join(pod.DataDir(), "log")); err != nil { // they stay, as the Pods' objects do
				t.Error(err)
			}
			l.wait("see nothing left", func(context.Context) error { return l.left() })
		})
	}
}

// trace lives the Pods' life once undisturbed and returns the points that the daemon came to, and for those that it came
// to more than once also the middle one.
func trace(t *testing.T, pod *instance.Instance) []string {
	t.Helper()
	file := filepath.Join(pod.Dir, "trace")
	env := pod.Env
	t.Run("undisturbed", func(t *testing.T) {
		traced := append(slices.Clone(env), traceEnv+"="+file)
		l := &life{t: t, pod: pod, armed: traced, unarmed: traced}
		l.run()
	})
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count, most := map[string]int{}, map[string]int{} // by process and point; of one process, by point
	var order []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_, name, _ := strings.Cut(lines.Text(), " ")
		if most[name] == 0 {
			order = append(order, name)
		}
		count[lines.Text()]++
		most[name] = max(most[name], count[lines.Text()])
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range declared(t) {
		if !slices.ContainsFunc(order, func(o string) bool { return o == name || strings.HasPrefix(o, name+" ") }) {
			t.Errorf("the life of the Pods does not pass the point %q", name)
		}
	}
	var points []string
	for _, name := range order {
		points = append(points, name)
		if n := most[name]; n > 1 {
			points = append(points, fmt.Sprintf("%s:%d", name, n/2+1))
		}
	}
	return points
}

// declared lists the names of all points in the program.
func declared(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("grep", "-rhoE", "--include=*.go", `fault\.Point\("[^"]*"`, repository+"/internal").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		names = append(names, strings.Split(line, `"`)[1])
	}
	return names
}

// up brings the instance up with env. A daemon that ends at its fault point meanwhile is no error.
func (l *life) up(env []string) error {
	l.pod.Env = env
	defer func() { l.pod.Env = l.unarmed }()
	_, _, err := l.pod.Up(l.t.Context())
	if err != nil && l.pod.PID() == 0 && strings.Contains(err.Error(), "signal: killed") && !l.fired {
		l.fired = true
		l.t.Logf("killed while it came up")
		return l.up(l.unarmed)
	}
	return err
}

// revive brings the daemon up again if it has ended at its fault point.
func (l *life) revive() {
	ended, err := l.pod.Ended()
	if !ended {
		return
	}
	if l.fired || !strings.Contains(fmt.Sprint(err), "signal: killed") {
		l.fatalf("the daemon ended: %v", err)
	}
	l.fired = true
	if l.stays {
		return
	}
	if err := l.up(l.unarmed); err != nil {
		l.fatalf("%v", err)
	}
}

// restart kills the daemon in the middle of the Pods' life.
func (l *life) restart() {
	env := l.armed
	if l.fired {
		env = l.unarmed
	}
	if err := l.pod.Stop(syscall.SIGKILL); err != nil {
		l.fatalf("%v", err)
	}
	if err := l.up(env); err != nil {
		l.fatalf("%v", err)
	}
}
