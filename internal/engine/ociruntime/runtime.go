// Package ociruntime runs OCI runtimes (crun, runc) and finds which one a machine can use.
//
// With conmon/ it is the only package that starts programs, and both do so through a Launcher.
// Nothing here keeps state: the runtime does, below its own root.
package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNotFound tells that a runtime's program is not installed.
var ErrNotFound = errors.New("not found")

// Runtime is one OCI runtime. Safe for concurrent use on different containers.
type Runtime struct {
	Name string // what handlers call it: "crun", "runc"
	Path string // of the program
	Root string // the folder where it keeps its state
	l    *Launcher

	sealed *os.File // a copy of the program, see seal; nil: there is none
}

// Find looks for the runtime named name: a program on the PATH, or a path.
func Find(name string) (path string, err error) {
	path, err = exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("OCI runtime %q %w", name, ErrNotFound)
	}
	return path, nil
}

// New returns the runtime at path.
func New(name, path, root string, l *Launcher) *Runtime {
	r := &Runtime{Name: name, Path: path, Root: root, l: l}
	if sealed, err := seal(path); err == nil { // else the runtime protects itself
		r.sealed = sealed
	}
	return r
}

// Program is the path to execute the runtime by. It is good as long as this process lives.
func (r *Runtime) Program() string {
	if r.sealed == nil {
		return r.Path
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.sealed.Fd())
}

// command is a command of the runtime.
func (r *Runtime) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.Path, append([]string{"--root", r.Root, verb}, args...)...)
	cmd.Path, cmd.Env = r.Program(), environment
	return cmd
}

// Start lets the first process of a created container run its command.
func (r *Runtime) Start(ctx context.Context, id string) error {
	_, err := r.run(ctx, "start", id)
	return err
}

// Delete removes what the runtime keeps of a container, and its cgroup. It kills what still runs. Idempotent.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	_, err := r.run(ctx, "delete", "--force", id)
	if err != nil && isGone(err) {
		return nil
	}
	return err
}

// State tells what the runtime knows of a container; errors.Is(err, ErrNotFound) when nothing.
func (r *Runtime) State(ctx context.Context, id string) (*specs.State, error) {
	out, err := r.run(ctx, "state", id)
	if err != nil {
		if isGone(err) {
			return nil, fmt.Errorf("container %s %w", id, ErrNotFound)
		}
		return nil, err
	}
	var s specs.State
	return &s, json.Unmarshal(out, &s)
}

// Version is what the program says of itself.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	out, err := r.run(ctx, "--version")
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line[strings.LastIndex(line, " ")+1:], nil
}

// isGone recognises the runtimes' texts for a container that they do not have: there is no exit code for it.
func isGone(err error) bool {
	var re *Error
	return errors.As(err, &re) && (strings.Contains(re.Text, "does not exist") || strings.Contains(re.Text, "No such file or directory"))
}

// Error is what a runtime said when it failed.
type Error struct {
	Verb string
	Text string
}

func (e *Error) Error() string { return e.Text }

func (r *Runtime) run(ctx context.Context, verb string, args ...string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := r.command(ctx, verb, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := r.l.Start(cmd); err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", r.Path, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if text := CleanMessage(said.String()); text != "" {
			return nil, &Error{Verb: verb, Text: text}
		}
		return nil, fmt.Errorf("%s %s: %w", r.Name, verb, err)
	}
	return out.Bytes(), nil
}

// environment of every runtime process: they need a PATH for hooks, and nothing of the daemon's.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// CleanMessage takes the message out of what a runtime printed: runc prints log lines (msg="…"), crun plain text,
// in red on a terminal.
func CleanMessage(said string) string {
	said = strings.TrimSpace(said)
	lines := strings.Split(said, "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if coloured, ok := strings.CutPrefix(last, "\x1b[1;31m"); ok { // crun on a terminal, with the time before the text
		_, text, _ := strings.Cut(coloured, ": ")
		return strings.TrimSuffix(text, "\x1b[0m")
	}
	if _, quoted, ok := strings.Cut(last, "level=error msg="); ok {
		var text string
		if json.Unmarshal([]byte(quoted), &text) == nil {
			return text
		}
	}
	return said
}
