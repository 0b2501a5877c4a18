package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// terminal is the pseudo terminal between a client and the runtime, which has another between itself and the command.
type terminal struct{ ours, theirs *os.File }

// openTerminal gives cmd a terminal as its standard files and makes it the controlling one.
func openTerminal(cmd *exec.Cmd) (*terminal, error) {
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	fd := int(ours.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that Close ends a Read
	}
	var theirs *os.File
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	// A file that was blocking when opened never uses the poller: wrap the descriptor anew.
	polled, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr.Setctty = true
	return &terminal{ours: os.NewFile(uintptr(polled), "ptmx"), theirs: theirs}, nil
}

// copyUntilExit copies both ways until cmd has ended and its output was read.
func (t *terminal) copyUntilExit(cmd *exec.Cmd, in io.Reader, out io.Writer) error {
	t.theirs.Close()
	if in != nil {
		go io.Copy(t.ours, in)
	}
	copied := make(chan struct{})
	go func() {
		io.Copy(out, t.ours) // ends with EIO when the last holder of the other side has closed it
		close(copied)
	}()
	err := cmd.Wait()
	<-copied
	return err
}

// resize follows the client's window. A closed channel means that the client has gone: hang up.
func (t *terminal) resize(ctx context.Context, sizes <-chan Size, hangUp func()) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				if sizes != nil {
					hangUp()
				}
				return
			}
			t.control(func(fd int) {
				unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
			})
		case <-ctx.Done():
			return
		}
	}
}

func (t *terminal) control(f func(fd int)) {
	if raw, err := t.ours.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

func (t *terminal) close() error { return errors.Join(t.ours.Close(), t.theirs.Close()) }
