// Package internal_test holds the rules of who may import whom, each with its reason.
package internal_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "peapod.dev/peapod/"

// rule forbids the files under the folder from (relative to internal/) to import any package that forbids matches,
// save those under one of the allowed folders. A folder names itself and all below it.
type rule struct {
	from    string
	forbids []string // import paths; one of this module is written internal/…
	allows  []string
	reason  string
}

var rules = []rule{
	{
		from: "engine", forbids: []string{"internal"}, allows: []string{"internal/engine", "internal/version", "internal/fault"},
		reason: "the engine knows Pods as CRI messages only, so that crictl, critest and other agents can judge it",
	},
	{
		from: "engine", forbids: []string{"k8s.io/api", "k8s.io/client-go", "k8s.io/kubernetes"},
		allows: []string{"k8s.io/client-go/tools/remotecommand"}, // the terminal size in the streaming seam
		reason: "the engine speaks CRI v1: Kubernetes API types end at the agent",
	},
	{
		from: "agent", forbids: []string{"internal"}, allows: []string{"internal/agent", "internal/version", "internal/fault"},
		reason: "the agent meets the engine through CRI, and the scheduler and the controllers through the API",
	},
	{
		from: "scheduler", forbids: []string{"internal"}, allows: []string{"internal/scheduler"},
		reason: "the scheduler meets the others through the API only",
	},
	{
		from: "controllers", forbids: []string{"internal"}, allows: []string{"internal/controllers"},
		reason: "the controllers meet the others through the API only",
	},
	{
		from: "apiserver", forbids: []string{"internal"}, allows: []string{"internal/apiserver", "internal/version"},
		reason: "the API server stores and serves; whatever acts on objects is its client",
	},
	{
		from: "datastore", forbids: []string{"internal"}, allows: []string{"internal/datastore"},
		reason: "the state is etcd and knows nothing of what is kept in it",
	},
	{
		from: "agent/plan", forbids: impure, allows: []string{"net/netip"},
		reason: "the planner is pure: the same Pod and observation give the same plan, in a test as on a node",
	},
	{
		from: "agent/status", forbids: impure, allows: []string{"net/netip"},
		reason: "status is a pure function of the Pod and what is seen",
	},
	{
		from: "agent/admit", forbids: impure, allows: []string{"net/netip", "k8s.io/klog"},
		// klog: upstream's own check takes a logger, and is given one that is silent
		reason: "whether a node takes a Pod depends on the two alone",
	},
	{
		from: "agent/allocation", forbids: impure, allows: []string{"net/netip"},
		reason: "what has been granted to a Pod stands in the Pod alone",
	},
	{
		from: "agent/hosts", forbids: impure, allows: []string{"net/netip"},
		reason: "the hosts file is a function of the Pod and its address",
	},
	{
		from: "scheduler/filter", forbids: impure, allows: []string{"net/netip"},
		reason: "filters are pure, so that they can be compared with upstream's on random Pods",
	},
	{
		from: "scheduler/score", forbids: impure, allows: []string{"net/netip"},
		reason: "scores are pure, so that they can be compared with upstream's on random Pods",
	},
	{
		from: "scheduler/preempt", forbids: impure, allows: []string{"net/netip"},
		reason: "the choice of victims is pure, so that it can be compared with upstream's on random Pods",
	},
}

// impure are the packages by which a package could see or change anything but its arguments.
var impure = []string{
	"os", "io/fs", "net", "syscall", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "context",
	"golang.org/x/sys", "k8s.io/klog", "k8s.io/client-go", "internal/engine",
}

func TestImportsRunOneWay(t *testing.T) {
	for file := range sourceFiles(t, ".") {
		for _, r := range rules {
			if !within(filepath.ToSlash(file.path), r.from) {
				continue
			}
			for _, path := range file.imports {
				if matches(path, r.forbids) && !matches(path, r.allows) {
					t.Errorf("%s imports %s, but %s", file.path, path, r.reason)
				}
			}
		}
	}
}

func TestOnlyTheCommandLineImportsTheDaemon(t *testing.T) {
	for file := range sourceFiles(t, ".") {
		for _, path := range file.imports {
			if within(path, "internal/daemon") && !within(file.path, "cli") && !within(file.path, "daemon") {
				t.Errorf("%s imports %s, but wiring is the daemon's alone and nothing points back at it", file.path, path)
			}
			if within(path, "internal/cli") {
				t.Errorf("%s imports %s, but verbs are called by people only", file.path, path)
			}
		}
	}
}

func TestOnlyConmonAndRuntimeStartPrograms(t *testing.T) {
	for file := range sourceFiles(t, ".") {
		if within(file.path, "engine/conmon") || within(file.path, "engine/ociruntime") {
			continue
		}
		for _, name := range file.uses("exec.Command", "exec.CommandContext", "os.StartProcess", "syscall.ForkExec", "syscall.Exec", "unix.Exec") {
			t.Errorf("%s uses %s, but programs are started by engine/conmon and engine/ociruntime only: "+
				"what peapod runs must be found in one place", file.path, name)
		}
	}
}

func TestPurePackagesDoNotReadTheClock(t *testing.T) {
	for _, dir := range []string{"agent/plan", "agent/status", "agent/admit", "agent/allocation", "agent/hosts", "scheduler/filter", "scheduler/score", "scheduler/preempt"} {
		for file := range sourceFiles(t, dir) {
			for _, name := range file.uses("time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc",
				"time.NewTimer", "time.NewTicker", "time.Tick") {
				t.Errorf("%s uses %s, but a pure package is given the time", file.path, name)
			}
		}
	}
}

func TestPackagesAreDomainNouns(t *testing.T) {
	for file := range sourceFiles(t, ".") {
		switch name := file.syntax.Name.Name; name {
		case "util", "utils", "common", "helper", "helpers", "types", "manager", "misc", "shared":
			t.Errorf("%s is of package %s, which says nothing about what it is for", file.path, name)
		}
	}
}

type source struct {
	path    string   // relative to internal/, with slashes
	imports []string // this module's as internal/…
	syntax  *ast.File
}

// uses returns those of the qualified names that the file mentions.
func (s source) uses(names ...string) []string {
	var found []string
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if pkg, ok := selector.X.(*ast.Ident); ok && slices.Contains(names, pkg.Name+"."+selector.Sel.Name) {
				found = append(found, pkg.Name+"."+selector.Sel.Name)
			}
		}
		return true
	})
	return found
}

// sourceFiles yields the Go files under dir that are part of the program: no tests, and nothing made for tests.
func sourceFiles(t *testing.T, dir string) func(yield func(source) bool) {
	t.Helper()
	return func(yield func(source) bool) {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the rule is there before the package
			}
			if err != nil || entry.IsDir() {
				if entry != nil && (entry.Name() == "testdata" || strings.HasSuffix(entry.Name(), "test")) {
					return fs.SkipDir
				}
				return err
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			syntax, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			file := source{path: filepath.ToSlash(path), syntax: syntax}
			for _, spec := range syntax.Imports {
				name, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				file.imports = append(file.imports, strings.TrimPrefix(name, module))
			}
			if !yield(file) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// within tells whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func matches(path string, dirs []string) bool {
	for _, dir := range dirs {
		if within(path, dir) {
			return true
		}
	}
	return false
}
