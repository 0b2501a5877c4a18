// Package instance runs a peapod of its own for a test or a measurement: own folders, own container storage, own port
// and addresses, so that it disturbs neither the machine's peapod nor other instances.
package instance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyTimeout bounds the time from start to the line that says that the node is Ready.
const readyTimeout = 60 * time.Second

// NodeName is the name of every instance's node, the one that examples/nodename.yaml asks for.
const NodeName = "node-1"

// Instance is one peapod. Its methods are for one goroutine at a time.
type Instance struct {
	Binary string   // path of the peapod program
	Dir    string   // everything the instance writes is under here
	Env    []string // added to this process's environment for every command
	Listen string   // address and port of the API server
	CIDR   string   // the Pods' addresses
	Extra  []string // further flags of up

	daemon *exec.Cmd
	done   chan error // receives the daemon's end
	log    *lockedBuffer
}

// New prepares an instance in dir. number, 0 to 49, tells instances that live at the same time apart.
func New(binary, dir string, number int) (*Instance, error) {
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("cannot find a free port: %w", err)
	}
	storage := filepath.Join(dir, "storage.conf")
	conf := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "storage"), filepath.Join(dir, "storage-run"))
	if err := os.WriteFile(storage, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("cannot prepare container storage: %w", err)
	}
	return &Instance{
		Binary: binary,
		Dir:    dir,
		Env:    []string{"CONTAINERS_STORAGE_CONF=" + storage},
		Listen: fmt.Sprintf("127.0.0.1:%d", port),
		CIDR:   fmt.Sprintf("10.%d.%d.0/24", 200+number, port%256),
	}, nil
}

// DataDir is the instance's --data-dir.
func (i *Instance) DataDir() string { return filepath.Join(i.Dir, "data") }

// RunDir is the instance's --run-dir.
func (i *Instance) RunDir() string { return filepath.Join(i.Dir, "run") }

// Kubeconfig is the administrator's kubeconfig, there once the instance is up.
func (i *Instance) Kubeconfig() string { return filepath.Join(i.DataDir(), "kubeconfig") }

// Command is a peapod command with the instance's environment.
func (i *Instance) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, i.Binary, args...)
	cmd.Env = append(os.Environ(), i.Env...)
	return cmd
}

// UpArgs are the arguments that bring this instance up.
func (i *Instance) UpArgs() []string {
	return append([]string{
		"up", "--data-dir", i.DataDir(), "--run-dir", i.RunDir(), "--listen", i.Listen,
		"--pod-cidr", i.CIDR, "--node-name", NodeName,
	}, i.Extra...)
}

// Load loads image archives into the instance's container storage.
func (i *Instance) Load(ctx context.Context, archives ...string) error {
	out, err := i.Command(ctx, append([]string{"image", "load"}, archives...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot load images: %w: %s", err, out)
	}
	return nil
}

// Up starts the daemon and waits for its line that the node is Ready, which it returns with the time from exec to it.
func (i *Instance) Up(ctx context.Context) (line string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	read, write, err := os.Pipe()
	if err != nil {
		return "", 0, fmt.Errorf("cannot start peapod: %w", err)
	}
	i.log = &lockedBuffer{}
	i.daemon = i.Command(context.WithoutCancel(ctx), i.UpArgs()...) // Stop ends it
	i.daemon.Stdout, i.daemon.Stderr = write, i.log
	started := time.Now()
	err = i.daemon.Start()
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		return "", 0, fmt.Errorf("cannot start peapod: %w", err)
	}
	i.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(i.daemon, i.done)

	ready := make(chan string, 1)
	go func() { // ends when the daemon does, or closes its standard output
		defer read.Close()
		lines := bufio.NewReader(read)
		line, err := lines.ReadString('\n')
		if err == nil {
			ready <- strings.TrimSpace(line)
		}
		_, _ = io.Copy(io.Discard, lines)
	}()
	select {
	case line := <-ready:
		return line, time.Since(started), nil
	case err := <-i.done:
		i.daemon = nil
		return "", 0, fmt.Errorf("peapod ended before it was ready: %w\n%s", err, i.Log())
	case <-ctx.Done():
		err := fmt.Errorf("peapod is not ready: %w\n%s", ctx.Err(), i.Log())
		return "", 0, errors.Join(err, i.Stop(syscall.SIGKILL))
	}
}

// PID is the daemon's process, 0 when none runs.
func (i *Instance) PID() int {
	if i.daemon == nil {
		return 0
	}
	return i.daemon.Process.Pid
}

// Ended tells, without waiting, whether the daemon that was up has ended by itself, and how.
func (i *Instance) Ended() (ended bool, err error) {
	select {
	case err := <-i.done:
		i.daemon = nil
		return true, err
	default:
		return false, nil
	}
}

// Cgroup is the path of the instance's control group, below which all its Pods are.
func (i *Instance) Cgroup() string {
	sum := sha256.Sum256([]byte(i.DataDir()))
	return "/peapod-" + hex.EncodeToString(sum[:4])
}

// Log is what the daemon has written to standard error since the last Up.
func (i *Instance) Log() string {
	if i.log == nil {
		return ""
	}
	return i.log.String()
}

// Stop sends the signal to the daemon and waits for its end. Without a daemon it does nothing.
func (i *Instance) Stop(signal syscall.Signal) error {
	if i.daemon == nil {
		return nil
	}
	if err := i.daemon.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal peapod: %w", err)
	}
	select {
	case err := <-i.done:
		i.daemon = nil
		if signal == syscall.SIGTERM && err != nil {
			return fmt.Errorf("peapod did not end well: %w\n%s", err, i.Log())
		}
		return nil
	case <-time.After(30 * time.Second):
		_ = i.daemon.Process.Kill()
		err := <-i.done
		i.daemon = nil
		return fmt.Errorf("peapod did not end within 30 s of %v: %w\n%s", signal, err, i.Log())
	}
}

// Down stops the daemon and removes everything that the instance made on the machine, save Dir itself. For an instance
// that was never up it does nothing.
func (i *Instance) Down(ctx context.Context) error {
	err := i.Stop(syscall.SIGTERM)
	if _, statErr := os.Stat(i.DataDir()); errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	out, downErr := i.Command(ctx, "down", "--data-dir", i.DataDir()).CombinedOutput()
	if downErr != nil {
		downErr = fmt.Errorf("cannot take peapod down: %w: %s", downErr, out)
	}
	return errors.Join(err, downErr, i.left())
}

// left is an error that names what is still on the machine of the instance: links, rules, control groups (whose names
// have the hash of the data folder) and mounts (which are below Dir).
func (i *Instance) left() error {
	id := strings.TrimPrefix(i.Cgroup(), "/peapod-")
	script := `ip -o link | grep -o "pea-$1"
		nft list tables | grep "pea-$1"
		find /sys/fs/cgroup -type d -name "peapod-$1"
		awk '{ print $5 }' /proc/self/mountinfo | grep "^$2/" | grep -vx "$3"` // what may be mounted there is the test's
	out, _ := exec.Command("sh", "-c", script, "sh", id, i.Dir, i.DataDir()).Output() // grep fails when nothing is left
	if len(out) > 0 {
		return fmt.Errorf("peapod down has left on the machine:\n%s", out)
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// lockedBuffer is written by a process's output copier while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
