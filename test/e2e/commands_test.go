package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"sort"
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
	"up":      up,
	"halt":    halt,
	"down":    down,
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
// rules, cgroups, and processes that hold containers. Two such files of an unchanged machine are equal.
func machine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: machine FILE")
	}
	var all bytes.Buffer
	for _, look := range []struct{ title, script string }{
		{"mounts", `awk '{ print $5, $9 }' /proc/self/mountinfo`},
		{"network namespaces", `ls /run/netns /var/run/netns 2>/dev/null`},
		{"links", `ip -o link | awk '{ sub("@.*", "", $2); print $2 }'`},
		{"routes", `ip route show table all | grep -v '^broadcast'`},
		{"nftables", `nft list tables`},
		{"cgroups", `find /sys/fs/cgroup -type d -path '*peapod*'`},
		{"processes", `ps -eo args | grep -E '^([^ ]*/)?(conmon|catatonit) ' | grep -v grep`},
	} {
		out, _ := exec.Command("sh", "-c", look.script).Output() // grep without a match fails
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		sort.Strings(lines)
		all.WriteString("== " + look.title + "\n" + strings.Join(lines, "\n") + "\n")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), all.Bytes(), 0o600))
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
