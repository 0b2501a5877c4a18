package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/fault"
)

// Stop ends a running container: its stop signal, then SIGKILL to all of it after grace. It returns when the container
// has exited. Idempotent. Of several calls at once the shortest grace counts, and the signal is sent once.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	c.op.Lock() // a start under way becomes a running container, or none, first
	state := c.Status().State
	c.op.Unlock()
	if state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	if grace > 0 {
		if err := c.ask(); err != nil {
			return err
		}
		fault.Point("stop signal sent")
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if err := c.kill(); err != nil {
		return err
	}
	fault.Point("container killed")
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the container was killed but has not ended: %w", ctx.Err())
	}
}

// ask sends the stop signal, once: a second may mean to a program not to clean up.
func (c *Container) ask() error {
	signal, err := parseSignal(c.StopSignal)
	if err != nil {
		c.env.Log.Warn("using SIGTERM for a container", "container", c.ID, "error", err)
		signal = unix.SIGTERM
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked {
		return nil
	}
	c.asked = true
	return c.signal(signal)
}

func (c *Container) kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.signal(unix.SIGKILL)
	if c.SharesPID {
		err = errors.Join(err, c.env.Cgroups.Kill(c.Cgroup))
	}
	return err
}

// signal needs c.mu. A process that is gone is success.
func (c *Container) signal(s unix.Signal) error {
	if c.init == nil {
		return nil
	}
	raw, err := c.init.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	if errors.Is(serr, unix.ESRCH) {
		serr = nil
	}
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("cannot send %s to container %s: %w", unix.SignalName(s), c.ID, err)
	}
	return nil
}

// Limits of the real-time signals that programs may use, as glibc and musl have them: SIGRTMIN and SIGRTMAX.
const rtMin, rtMax = 34, 64

// criPrefix begins the names of CRI's signals.
const criPrefix = "SIGNAL_"

// parseSignal understands the forms of an image's STOPSIGNAL and of CRI's Signal: SIGTERM, TERM, 15, SIGRTMIN+3,
// SIGNAL_SIGRTMINPLUS3, SIGRTMAX-2, SIGNAL_SIGRTMAXMINUS2. Empty is SIGTERM.
func parseSignal(name string) (unix.Signal, error) {
	if name == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > rtMax {
			return 0, fmt.Errorf("invalid signal %q", name)
		}
		return unix.Signal(n), nil
	}
	text := strings.TrimPrefix(strings.TrimPrefix(strings.ToUpper(name), criPrefix), "SIG")
	text = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(text)
	for prefix, base := range map[string]int{"RTMIN": rtMin, "RTMAX": rtMax} {
		rest, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil {
				return 0, fmt.Errorf("invalid signal %q", name)
			}
		}
		if n := base + offset; n >= rtMin && n <= rtMax {
			return unix.Signal(n), nil
		}
		return 0, fmt.Errorf("invalid signal %q", name)
	}
	switch text { // second names, which the kernel's list has not
	case "IOT":
		text = "ABRT"
	case "POLL":
		text = "IO"
	case "CLD":
		text = "CHLD"
	}
	if s := unix.SignalNum("SIG" + text); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("invalid signal %q", name)
}

// Signal is the CRI value for a name that an image or a CRI message uses.
func Signal(name string) (runtimeapi.Signal, error) {
	s, err := parseSignal(name)
	if err != nil {
		return 0, err
	}
	if value, ok := runtimeapi.Signal_value[criPrefix+unix.SignalName(s)]; ok {
		return runtimeapi.Signal(value), nil
	}
	for value, known := range runtimeapi.Signal_name { // real-time signals have no one name
		if n, err := parseSignal(known); err == nil && n == s {
			return runtimeapi.Signal(value), nil
		}
	}
	return 0, fmt.Errorf("invalid signal %q", name)
}

// Retire makes sure that the container does not run and never will: it is the first step of a removal.
func (c *Container) Retire() error {
	c.op.Lock()
	defer c.op.Unlock()
	switch c.Status().State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return fmt.Errorf("container %s is running", c.ID)
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		c.mu.Lock()
		c.status.State = runtimeapi.ContainerState_CONTAINER_EXITED
		c.mu.Unlock()
		close(c.exited)
		close(c.cleaned)
	}
	return nil
}

// Settle returns when the OCI runtime has forgotten a container that exited.
func (c *Container) Settle(ctx context.Context) error {
	select {
	case <-c.cleaned:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Remove deletes the folders of a container that has retired and settled. Idempotent.
func (c *Container) Remove() error {
	_ = c.durable.Wait() // its goroutine works in the folder
	err := os.RemoveAll(c.Bundle())
	fault.Point("bundle removed")
	return errors.Join(err, os.RemoveAll(c.dir()))
}

// Update changes the limits.
func (c *Container) Update(r *runtimeapi.LinuxContainerResources) error {
	c.op.Lock()
	defer c.op.Unlock()
	switch c.Status().State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		if err := c.env.Cgroups.Update(c.Cgroup, r); err != nil {
			return err
		}
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		if err := updateSpec(c.Bundle(), r); err != nil {
			return err
		}
	default:
		return ErrNotRunning
	}
	c.set(func(s *Status) { s.Resources = merge(s.Resources, c.Config.GetLinux().GetResources(), r) })
	return nil
}

// Close lets go of the container, which stays as it is.
func (c *Container) Close() {
	c.mu.Lock()
	m := c.follow
	if c.leave != nil {
		c.leave()
	}
	c.mu.Unlock()
	if m != nil {
		m.Close()
	}
	c.closeInit()
}
