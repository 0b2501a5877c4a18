package ociruntime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// await is cmd.Wait, but no thread waits meanwhile: however many commands run at once, they cost none. A program that does
// not end though ctx has, because the kernel holds on to it, is left to itself, so that nobody waits for it any more.
// cmd must have been started with its pidfd asked for, which await closes.
func await(ctx context.Context, cmd *exec.Cmd) error {
	pidfd := *cmd.SysProcAttr.PidFD
	if cmd.Process == nil || pidfd < 0 || unix.SetNonblock(pidfd, true) != nil { // not started, or a kernel without pidfds
		return cmd.Wait()
	}
	process := os.NewFile(uintptr(pidfd), "pidfd")
	// By then it was killed, and after the first drain once more.
	stop := context.AfterFunc(ctx, func() { _ = process.SetReadDeadline(time.Now().Add(2 * drain)) })
	defer stop()
	if err := AwaitEnd(process); errors.Is(err, os.ErrDeadlineExceeded) {
		go func() { // reaps it whenever it ends
			_ = process.SetReadDeadline(time.Time{})
			_ = AwaitEnd(process)
			process.Close()
			_ = cmd.Wait()
		}()
		return ctx.Err()
	}
	process.Close()
	return cmd.Wait()
}

// AwaitEnd waits, without a thread, until a pidfd tells its process' end or is closed. The pidfd must not block.
func AwaitEnd(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		return n > 0
	})
}
