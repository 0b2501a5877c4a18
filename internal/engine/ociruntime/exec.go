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

// drain is how long output of processes that outlive an exec'd command is still copied. Without an end, a command that
// leaves a daemon behind would never return.
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

	pidFile string
}

// started tells whether the command itself ran: only then has it a process ID.
func (e *Exec) started() bool {
	info, err := os.Stat(e.pidFile)
	return err == nil && info.Size() > 0
}

// Size of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Exec runs the command to its end and returns its exit code. When ctx ends before, or the client of a terminal goes
// away, the command's process group is killed, and ctx.Err() or context.Canceled returned.
// A command that cannot be started is an *Error.
func (r *Runtime) Exec(ctx context.Context, e Exec) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
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
	cmd := exec.CommandContext(ctx, r.Path, "--root", r.Root, "exec", "--process", "/proc/self/fd/3", "--pid-file", e.pidFile, e.ID)
	cmd.Env, cmd.ExtraFiles, cmd.WaitDelay = environment, []*os.File{process}, drain
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return killSession(cmd.Process.Pid, e.pidFile) }
	wait := cmd.Wait
	if e.Process.Terminal {
		if wait, err = r.withTerminal(ctx, cmd, e, io.MultiWriter(said, client{e.Stdout, cancel}), cancel); err != nil {
			return 0, err
		}
	} else {
		if e.Stdin != nil {
			in, err := cmd.StdinPipe()
			if err != nil {
				return 0, err
			}
			// Not cmd.Stdin: Wait would wait for a client that keeps its side open after the command's end.
			go func() { io.Copy(in, e.Stdin); in.Close() }()
		}
		cmd.Stdout, cmd.Stderr = client{e.Stdout, cancel}, io.MultiWriter(said, client{e.Stderr, cancel})
	}
	r.l.ExpectMigration()
	if err := r.l.Start(cmd); err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", r.Path, err)
	}
	err = wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	case !e.started(): // the exit code is the runtime's own
		return 0, &Error{Verb: "exec", Text: CleanMessage(said.String())}
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return exit.ExitCode(), nil
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
type prefix struct{ bytes.Buffer }

func (p *prefix) Write(b []byte) (int, error) {
	p.Buffer.Write(b[:min(len(b), max(0, 1024-p.Len()))])
	return len(b), nil
}

// client is where output goes; nil: nowhere. One that takes no more has gone, and the command ends.
type client struct {
	io.Writer
	hangUp func()
}

func (c client) Write(b []byte) (int, error) {
	if c.Writer == nil {
		return len(b), nil
	}
	n, err := c.Writer.Write(b)
	if err != nil {
		c.hangUp()
	}
	return n, err
}
