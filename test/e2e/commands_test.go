package e2e

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"peapod.dev/peapod/test/instance"
)

// waitLimit bounds every wait of a script.
const waitLimit = 30 * time.Second

// commands are the scripts' own commands, beside testscript's.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"waitfor": waitfor,
	"machine": machine,
	"left":    left,
	"up":      up,
	"halt":    halt,
	"down":    down,
	"disk":    disk,
	"ends":    ends,
}

// waitfor REGEXP COMMAND… runs the command again and again until its output matches (or, with !, no longer does). For
// what `kubectl wait` cannot wait for: events, logs, a port that answers.
func waitfor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] waitfor REGEXP COMMAND…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out string
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...) // what it prints decides, not whether it succeeds
		out = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if want.MatchString(out) != neg {
			return
		}
	}
	ts.Fatalf("after %v the output is still:\n%s", waitLimit, out)
}

// machine FILE writes down what peapod could leave on the machine: mounts, network namespaces and links, nftables
// rules, cgroups, and processes that hold containers; a line each.
func machine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: machine FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(traces(), "\n")), 0o600))
}

func traces() []string {
	var all []string
	for _, look := range []struct{ what, script string }{
		{"mount", `awk '{ print $5 }' /proc/self/mountinfo`},
		{"network namespace", `ls /run/netns 2>/dev/null`},
		{"link", `ip -o link | awk '{ sub("@.*", "", $2); print $2 }'`},
		{"route", `ip route show table all`},
		{"rules", `nft list tables`},
		{"cgroup", `find /sys/fs/cgroup -type d -path '*peapod*'`},
		{"process", `ps -eo args | grep -E '^([^ ]*/)?(conmon|catatonit) '`},
	} {
		out, _ := exec.Command("sh", "-c", look.script).Output() // grep without a match fails
		for line := range strings.Lines(string(out)) {
			all = append(all, look.what+" "+strings.TrimSpace(line))
		}
	}
	return all
}

// left BEFORE DURING fails if anything that was there in DURING and not in BEFORE is there still. So what other programs
// do on the machine before or after does not matter.
func left(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] left BEFORE DURING")
	}
	before := strings.Split(ts.ReadFile(args[0]), "\n")
	during := strings.Split(ts.ReadFile(args[1]), "\n")
	var still []string
	for _, line := range traces() {
		if slices.Contains(during, line) && !slices.Contains(before, line) {
			still = append(still, line)
		}
	}
	switch {
	case !neg && len(still) > 0:
		ts.Fatalf("left on the machine:\n%s", strings.Join(still, "\n"))
	case neg && len(still) == 0:
		ts.Fatalf("nothing has been added to the machine")
	}
}

// own is the peapod of a script in testdata/own.
func own(ts *testscript.TestScript) *instance.Instance {
	i, ok := ts.Value(instanceKey{}).(*instance.Instance)
	if !ok {
		ts.Fatalf("only scripts in testdata/own have a peapod of their own")
	}
	return i
}

type instanceKey struct{}

// up [FLAG…] brings the script's own peapod up and waits until its node is Ready.
func up(ts *testscript.TestScript, neg bool, args []string) {
	i := own(ts)
	i.Extra = args
	line, took, err := i.Up(context.Background())
	switch {
	case neg && err == nil:
		ts.Fatalf("peapod came up: %s", line)
	case !neg:
		ts.Check(err)
		ts.Logf("%s (%v)", line, took)
	}
}

// halt TERM|KILL sends the signal to the script's own peapod and waits for its end. The Pods go on.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: halt TERM|KILL")
	}
	ts.Check(own(ts).Stop(signals[args[0]]))
}

// down stops the script's own peapod and has it remove all it made.
func down(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: down")
	}
	ts.Check(own(ts).Down(context.Background()))
}

// disk SIZE makes the data folder of the script's own peapod a file system of that size, until the script ends.
func disk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: disk SIZE")
	}
	i := own(ts)
	ts.Check(os.Mkdir(i.DataDir(), 0o700))
	ts.Check(syscall.Mount("disk", i.DataDir(), "tmpfs", 0, "size="+args[0]))
	ts.Defer(func() {
		if err := i.Down(context.Background()); err != nil {
			ts.Logf("%v", err)
		}
		ts.Check(syscall.Unmount(i.DataDir(), syscall.MNT_FORCE))
		ts.Check(os.Remove(i.DataDir()))
	})
}

// ends REGEXP waits until the script's own peapod has ended by itself; the last line of its log must match.
func ends(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ends REGEXP")
	}
	i := own(ts)
	for deadline := time.Now().Add(2 * waitLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ended, err := i.Ended()
		if !ended {
			continue
		}
		lines := strings.Split(strings.TrimSpace(i.Log()), "\n")
		last := lines[len(lines)-1]
		if matched, rerr := regexp.MatchString(args[0], last); rerr != nil || !matched || err == nil {
			ts.Fatalf("peapod ended (%v) with the line %q", err, last)
		}
		return
	}
	ts.Fatalf("peapod has not ended within %v", 2*waitLimit)
}
