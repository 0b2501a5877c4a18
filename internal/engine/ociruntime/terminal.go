package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// withTerminal gives the command of cmd, an exec, a terminal. The function that it returns joins that with the client
// until the command has ended and its output was read.
func (r *Runtime) withTerminal(ctx context.Context, cmd *exec.Cmd, e Exec, said io.Writer) (wait func() error, err error) {
	out := said
	if e.Stdout != nil {
		out = io.MultiWriter(said, e.Stdout)
	}
	if r.Name == "runc" {
		// It refuses a console socket unless it detaches, and then would not tell the exit code: it copies between its
		// own terminal and this one.
		ours, theirs, err := openPTY()
		if err != nil {
			return nil, err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
		cmd.SysProcAttr.Setctty = true
		return func() error {
			theirs.Close()
			return join(ctx, cmd, func() (*os.File, error) { return ours, nil }, func() {}, e, out)
		}, nil
	}
	// In a short path, as a socket's address is at most 108 bytes.
	dir, err := os.MkdirTemp(filepath.Dir(r.Root), "tty-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	cmd.Args = slices.Insert(cmd.Args, len(cmd.Args)-1, "--console-socket", path)
	cmd.Stdout, cmd.Stderr = out, out // errors from before there is a terminal
	return func() error {
		defer os.RemoveAll(dir)
		defer l.Close()
		// A runtime that has ended without sending a terminal is no longer waited for once another has knocked.
		knock := func() {
			if conn, err := net.Dial("unix", path); err == nil {
				conn.Close()
			}
		}
		return join(ctx, cmd, func() (*os.File, error) { return receive(l) }, knock, e, out)
	}, nil
}

// join copies between the client and the terminal that open returns, until cmd has ended and the output was read. After
// ended, open waits no longer.
func join(ctx context.Context, cmd *exec.Cmd, open func() (*os.File, error), ended func(), e Exec, out io.Writer) error {
	opened := make(chan *os.File, 1)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		terminal, err := open()
		if err != nil {
			close(opened)
			return
		}
		opened <- terminal
		defer terminal.Close()
		if e.Stdin != nil {
			go io.Copy(terminal, e.Stdin)
		}
		go resize(ctx, terminal, e.Resize)
		io.Copy(out, terminal) // ends with EIO when nobody has the other side open
	}()
	err := await(ctx, cmd)
	ended()
	if terminal, ok := <-opened; ok {
		_ = terminal.SetReadDeadline(time.Now().Add(drain))
	}
	<-copied
	return err
}

// openPTY returns the two sides of a new terminal.
func openPTY() (ours, theirs *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	ours = os.NewFile(uintptr(fd), "ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	return ours, theirs, nil
}

// receive takes the terminal that an OCI runtime sends over its console socket.
func receive(l *net.UnixListener) (*os.File, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 4096), rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("no terminal was sent")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("no terminal was sent")
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// resize follows the client's window. A closed channel means that the client has gone; closing the terminal hangs it up.
func resize(ctx context.Context, terminal *os.File, sizes <-chan Size) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				terminal.Close()
				return
			}
			if raw, err := terminal.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) {
					_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
				})
			}
		case <-ctx.Done():
			return
		}
	}
}
