package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// drain is how long a runtime may take to end once its command was killed, and a terminal to hand over its last output.
const drain = time.Second

// Exec is a command to run in a running container.
type Exec struct {
	ID      string
	Process *specs.Process // of the container, with Args and Terminal of the command
	Dir     string         // where the process ID file may be made; one of the container's own
	Stdin   io.Reader      // nil: none
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan Size // with Terminal; closed when the client has gone
	// Timeout counts from the start of the runtime's program, not the time that it has to wait before, which is the
	// machine's fault and not the command's; 0: none.
	Timeout time.Duration

	pidFile string
}

// started tells whether the command itself ran: only then has it a process ID.
func (e *Exec) started() bool {
	info, err := os.Stat(e.pidFile)
	return err == nil && info.Size() > 0
}

// Size of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Exec runs the command to its end and returns its exit code; processes that it leaves behind are not waited for. When
// ctx or the timeout ends before, the command's process group is killed, and ctx.Err() or context.DeadlineExceeded
// returned. When the client goes away, the command is hung up: by SIGHUP where it has a terminal, else by SIGPIPE when it
// prints; one that minds neither lives on. A command that cannot be started is an *Error.
func (r *Runtime) Exec(ctx context.Context, e Exec) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	process, err := memoryFile(e.Process)
	if err != nil {
		return 0, err
	}
	defer process.Close()
	if e.pidFile, err = reservePIDFile(e.Dir); err != nil {
		return 0, err
	}
	defer os.Remove(e.pidFile)

	said := &prefix{}
	cmd := r.command(ctx, "exec", "--process", "/proc/self/fd/3", "--pid-file", e.pidFile, e.ID)
	cmd.ExtraFiles, cmd.WaitDelay = []*os.File{process}, drain
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: new(int)}
	cmd.Cancel = func() error { return killSession(cmd.Process.Pid, e.pidFile) }
	var wait func() error
	if e.Process.Terminal {
		wait, err = r.withTerminal(ctx, cmd, e, said)
	} else {
		wait, err = withPipes(ctx, cmd, e, said)
	}
	if err != nil {
		return 0, err
	}
	r.l.ExpectMigration()
	if err := r.l.StartLater(cmd); err != nil {
		cancel(nil)
		_ = wait() // closes what was opened for the command
		return 0, fmt.Errorf("cannot run %s: %w", r.Path, err)
	}
	if e.Timeout > 0 {
		timer := time.AfterFunc(e.Timeout, func() { cancel(context.DeadlineExceeded) })
		defer timer.Stop()
	}
	err = wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	case !e.started(): // the exit code is the runtime's own
		return 0, &Error{Verb: "exec", Text: CleanMessage(said.kept.String())}
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return exit.ExitCode(), nil
}

// withPipes joins the command of cmd, an exec, with the client. The function that it returns waits until the command has
// ended and its output was copied.
func withPipes(ctx context.Context, cmd *exec.Cmd, e Exec, said io.Writer) (wait func() error, err error) {
	if e.Stdin != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		// Not cmd.Stdin: Wait would wait for a client that keeps its side open after the command's end.
		go func() { io.Copy(in, e.Stdin); in.Close() }()
	}
	var files []*os.File
	var finish []func()
	open := func(to io.Writer) (*os.File, error) {
		o, write, err := newOutput(to)
		if err != nil {
			return nil, err
		}
		files = append(files, write)
		finish = append(finish, func() { o.finish(to) })
		return write, nil
	}
	wait = func() error {
		for _, f := range files {
			f.Close()
		}
		err := await(ctx, cmd)
		for _, f := range finish {
			f()
		}
		return err
	}
	if e.Stdout != nil {
		if cmd.Stdout, err = open(e.Stdout); err != nil {
			return nil, err
		}
	}
	errs := said // what the runtime says is wanted in any case
	if e.Stderr != nil {
		errs = io.MultiWriter(said, e.Stderr)
	}
	if cmd.Stderr, err = open(errs); err != nil {
		wait()
		return nil, err
	}
	return wait, nil
}

// reservePIDFile makes the file itself unique and empty; the runtime replaces it.
func reservePIDFile(dir string) (string, error) {
	f, err := os.CreateTemp(dir, "exec-*.pid")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// killSession ends the command's process group, which both runtimes make for it. The runtime then reaps the command and
// ends by itself: without it the command would stay a zombie in a container whose first process does not reap. Only
// where nothing runs yet is it the runtime that is killed; else no sooner than after drain.
func killSession(runtime int, pidFile string) error {
	if data, err := os.ReadFile(pidFile); err == nil {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(data))); err == nil && pid > 1 {
			if group, err := unix.Getpgid(pid); err == nil && group > 1 {
				return unix.Kill(-group, unix.SIGKILL)
			}
		}
	}
	return unix.Kill(-runtime, unix.SIGKILL)
}

// memoryFile holds v as JSON, readable by a child as /proc/self/fd/N: nothing is left behind on a disk.
func memoryFile(v any) (*os.File, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("process.json", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "process.json")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ProcessOf reads the process that a bundle's container runs.
func ProcessOf(bundle string) (*specs.Process, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	return s.Process, nil
}

// prefix keeps the first kilobyte of what is written to it.
type prefix struct{ kept bytes.Buffer }

func (p *prefix) Write(b []byte) (int, error) {
	p.kept.Write(b[:min(len(b), 1024-p.kept.Len())])
	return len(b), nil
}
