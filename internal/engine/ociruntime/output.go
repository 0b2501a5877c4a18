package ociruntime

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// output is a pipe that a command prints to, copied to a client.
//
// A command may leave processes behind that have the pipe open. All that the command itself printed is in the pipe when
// it ends, so no more than that is read then: nothing is lost, and nobody waits for those processes.
type output struct {
	read   *os.File
	copied chan struct{}
}

// newOutput makes the pipe; the caller closes write when the command has it.
func newOutput(to io.Writer) (o *output, write *os.File, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	o = &output{read: read, copied: make(chan struct{})}
	go func() {
		defer close(o.copied)
		if _, err := io.Copy(to, read); err != nil && !os.IsTimeout(err) {
			read.Close() // the client has gone, and the command learns it as in a shell's pipe: by SIGPIPE
			return
		}
	}()
	return o, write, nil
}

// finish copies to the client what the command, which has ended, has left in the pipe, and closes it.
func (o *output) finish(to io.Writer) {
	defer o.read.Close()
	_ = o.read.SetReadDeadline(time.Now()) // the copying ends when it has to wait for more
	<-o.copied
	if o.read.SetReadDeadline(time.Time{}) != nil {
		return // closed: the client has gone
	}
	raw, err := o.read.SyscallConn()
	if err != nil {
		return
	}
	var left int
	_ = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	_, _ = io.CopyN(to, o.read, int64(left))
}
