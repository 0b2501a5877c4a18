// Package conmon starts and follows conmon, the small program that stays with each container: it holds its standard
// streams, writes its log and its exit code, and lives on when the engine ends.
//
// Layout of a bundle directory that a monitor works in: config.json (the OCI spec, written by the caller), conmon.pid,
// pid (of the container), attach (a socket), ctl (a fifo), exit (the exit code, written when the container ended).
// The directory is on a file system that does not survive a reboot, as the processes do not.
package conmon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/fault"
)

// ErrNotInstalled tells that there is no conmon on the PATH.
var ErrNotInstalled = errors.New("conmon is not installed (Debian: apt-get install conmon)")

// Conmon starts monitors. Safe for concurrent use.
type Conmon struct {
	path string
	l    *ociruntime.Launcher
}

// New finds the program; errors.Is(err, ErrNotInstalled).
func New(l *ociruntime.Launcher) (*Conmon, error) {
	path, err := exec.LookPath("conmon")
	if err != nil {
		return nil, ErrNotInstalled
	}
	return &Conmon{path: path, l: l}, nil
}

// Config is one container to be monitored.
type Config struct {
	ID        string
	Bundle    string
	Runtime   *ociruntime.Runtime
	LogPath   string // CRI log file; empty: output is thrown away
	Terminal  bool
	Stdin     bool
	StdinOnce bool // the first client that detaches closes the container's standard input
}

// CreateError is what the OCI runtime said when it could not create the container.
type CreateError struct{ Text string }

func (e *CreateError) Error() string { return e.Text }

// Monitor is one running conmon.
type Monitor struct {
	Bundle       string
	ContainerPID int
	process      *os.File // its pidfd
}

// Create starts a monitor, which has the runtime create the container, and returns when it is created: its first
// process exists and waits for Runtime.Start. On error nothing runs, though the runtime may know of the container.
func (c *Conmon) Create(ctx context.Context, config Config) (*Monitor, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command(c.path, config.args()...)
	cmd.Dir = config.Bundle
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "_OCI_SYNCPIPE=3"}
	cmd.ExtraFiles = []*os.File{write}
	said := &strings.Builder{}
	cmd.Stderr = said
	err = c.l.StartMonitor(cmd)
	write.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", c.path, err)
	}
	fault.Point("monitor started")
	stop := context.AfterFunc(ctx, func() { read.Close() })
	defer stop()
	var created struct {
		PID     int    `json:"pid"`
		Message string `json:"message"`
	}
	err = json.NewDecoder(io.LimitReader(read, 1<<20)).Decode(&created)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && created.PID <= 0:
		err = &CreateError{ociruntime.CleanMessage(created.Message)}
	case err != nil:
		cmd.Wait()
		return nil, fmt.Errorf("conmon ended without an answer: %s", strings.TrimSpace(said.String()))
	}
	// What was started has forked the monitor and ends at once.
	werr := cmd.Wait()
	if err != nil {
		Kill(config.Bundle)
		return nil, err
	}
	if werr != nil {
		return nil, fmt.Errorf("conmon: %w", werr)
	}
	return Find(config.ID, config.Bundle)
}

func (c Config) args() []string {
	log := "k8s-file:" + c.LogPath
	if c.LogPath == "" {
		log = "none"
	}
	args := []string{
		"--cid", c.ID, "--cuuid", c.ID, "--name", c.ID,
		"--runtime", c.Runtime.Program(), "--runtime-arg", "--root=" + c.Runtime.Root,
		"--bundle", c.Bundle, "--full-attach",
		"--persist-dir", c.Bundle,
		"--conmon-pidfile", filepath.Join(c.Bundle, "conmon.pid"),
		"--container-pidfile", filepath.Join(c.Bundle, "pid"),
		"--log-path", log, "--log-level", "error",
		"--no-sync-log", // the exit is reported at once; a log's last lines may be lost with the machine's power only
	}
	if c.Terminal {
		args = append(args, "--terminal")
	}
	if c.Stdin {
		args = append(args, "--stdin")
		if !c.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
	}
	return args
}

// Find returns the monitor of the container id that works in bundle; errors.Is(err, os.ErrNotExist) when none runs.
func Find(id, bundle string) (*Monitor, error) {
	pid, err := readNumber(filepath.Join(bundle, "conmon.pid"))
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("conmon %d: %w", pid, os.ErrNotExist)
	}
	m := &Monitor{Bundle: bundle, process: os.NewFile(uintptr(fd), "pidfd")}
	// The number may have passed to another process before it was opened; not after.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "\x00--cid\x00"+id+"\x00") {
		m.Close()
		return nil, fmt.Errorf("conmon %d: %w", pid, os.ErrNotExist)
	}
	m.ContainerPID, _ = readNumber(filepath.Join(bundle, "pid"))
	return m, nil
}

// Wait returns when the monitor has ended, which it does at once after its container, or when it was closed.
func (m *Monitor) Wait() error { return ociruntime.AwaitEnd(m.process) }

// Close lets go of the monitor, which runs on.
func (m *Monitor) Close() error { return m.process.Close() }

// Exit is how a container ended.
type Exit struct {
	Code int32 // 128 + n when signal n ended it
	At   time.Time
}

// ReadExit returns how the container of the bundle ended; errors.Is(err, os.ErrNotExist) when its monitor wrote
// nothing: it still runs, or was killed itself.
func ReadExit(bundle string) (Exit, error) {
	path := filepath.Join(bundle, "exit")
	info, err := os.Stat(path)
	if err != nil {
		return Exit{}, err
	}
	code, err := readNumber(path)
	return Exit{Code: int32(code), At: info.ModTime()}, err
}

// Kill ends the monitor that works in bundle, if any, by its own SIGKILL. Its container runs on.
func Kill(bundle string) {
	if pid, err := readNumber(filepath.Join(bundle, "conmon.pid")); err == nil {
		if m, err := Find(filepath.Base(bundle), bundle); err == nil {
			defer m.Close()
			unix.Kill(pid, unix.SIGKILL)
			m.Wait()
		}
	}
}

func readNumber(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
