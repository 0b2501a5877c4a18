package ociruntime

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/osthread"
)

const unifiedTree = "/sys/fs/cgroup/unified"

// Launcher forks every program that the engine runs, from one OS thread of its own. A child inherits two things from
// the thread that forks it, which nothing else in the process may have:
//
//   - The control group. The thread (on cgroup v1) and its children (v2, by clone3) are in the engine's group for
//     monitors, not in the daemon's. So ending the daemon's service, which kills its group, leaves containers running.
//   - For monitors, with HideUnified, a private mount namespace without the unified tree: crun refuses to create
//     containers on a hybrid machine that has a controller there, though it works on the version 1 hierarchies alone.
//     Each monitor gets a new copy of the host's mounts, because on a machine whose root mount is private a longer-lived
//     one would not see later mounts. A copy ends with its monitor, and the kernel detaches a mount in every copy when
//     the host removes its mount point.
type Launcher struct {
	config LauncherConfig
	log    *slog.Logger
	cgroup *os.File // the group on the version 2 tree; nil: there is none
	work   chan work
	later  chan work // what gives way to work
	closed chan struct{}
	done   chan struct{}
	close  sync.Once

	migration string // a file whose write is a migration between cgroups that moves nothing; empty: none is known
	warming   atomic.Bool
}

// LauncherConfig says where children live.
type LauncherConfig struct {
	Cgroup      string // cgroup path, in every hierarchy, made already; empty: the daemon's own
	HideUnified bool
	Log         *slog.Logger
}

// UnifiedHasController tells whether a hybrid machine has a controller on its version 2 tree, which crun refuses.
func UnifiedHasController() bool {
	data, err := os.ReadFile(unifiedTree + "/cgroup.controllers")
	return err == nil && strings.TrimSpace(string(data)) != ""
}

// NewLauncher starts the thread. The caller must Close it.
func NewLauncher(c LauncherConfig) (*Launcher, error) {
	l := &Launcher{config: c, log: c.Log, migration: ownGroup(),
		work: make(chan work), later: make(chan work), closed: make(chan struct{}), done: make(chan struct{})}
	if c.Cgroup != "" {
		l.cgroup = openUnified(c.Cgroup)
	}
	ready := make(chan error)
	osthread.Go(func() { l.run(ready) })
	if err := <-ready; err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot start the launcher: %w", err)
	}
	return l, nil
}

// openUnified opens the group on the version 2 tree, wherever that is; nil where the machine has none.
func openUnified(path string) *os.File {
	for _, root := range []string{unifiedTree, "/sys/fs/cgroup"} {
		dir := filepath.Join(root, path)
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if f, err := os.Open(dir); err == nil {
			return f
		}
	}
	return nil
}

// work is a fork that the thread is asked for.
type work struct {
	start   func()
	monitor bool
}

// Start is cmd.Start on the launcher's thread.
func (l *Launcher) Start(cmd *exec.Cmd) error { return l.start(l.work, cmd, false) }

// StartLater is Start for a program that gives way to others: on a machine that is busy a fork may take tens of
// milliseconds, and however many commands are to be run in containers, no container waits for them.
func (l *Launcher) StartLater(cmd *exec.Cmd) error { return l.start(l.later, cmd, false) }

// StartMonitor is Start for a program that has an OCI runtime create a container.
func (l *Launcher) StartMonitor(cmd *exec.Cmd) error {
	l.ExpectMigration()
	return l.start(l.work, cmd, true)
}

func (l *Launcher) start(queue chan<- work, cmd *exec.Cmd, monitor bool) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if l.cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(l.cgroup.Fd())
	}
	result := make(chan error, 1)
	select {
	case queue <- work{func() { result <- cmd.Start() }, monitor}:
		return <-result
	case <-l.closed:
		return errors.New("the launcher is closed")
	}
}

// ExpectMigration is called when a program is about to be started that will move a process into another control group.
// The first such move after a while waits for an RCU grace period, about 8 ms, and those just after it do not. So one
// that moves nothing is made now, beside the program's start.
func (l *Launcher) ExpectMigration() {
	if l.migration == "" || !l.warming.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer l.warming.Store(false)
		_ = os.WriteFile(l.migration, []byte(strconv.Itoa(os.Getpid())), 0) // on failure the wait is just not shortened
	}()
}

// ownGroup is the file that lists the processes of this process' own group, in whatever hierarchy comes first.
func ownGroup() string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(strings.TrimPrefix(controllers, "name="), ",")
		file := filepath.Join("/sys/fs/cgroup", name, path, "cgroup.procs")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// Close ends the thread. Children live on.
func (l *Launcher) Close() {
	l.close.Do(func() { close(l.closed) })
	<-l.done
	if l.cgroup != nil {
		l.cgroup.Close()
	}
}

func (l *Launcher) run(ready chan<- error) {
	defer close(l.done)
	t, err := l.prepareThread()
	ready <- err
	if err != nil {
		return
	}
	defer t.close()
	for {
		w, ok := l.next()
		if !ok {
			return
		}
		if !w.monitor || t.hostMounts == nil {
			w.start()
			continue
		}
		if err := t.hideUnified(); err != nil {
			l.log.Error("cannot prepare a mount namespace", "error", err)
		}
		w.start()
		if err := unix.Setns(int(t.hostMounts.Fd()), unix.CLONE_NEWNS); err != nil {
			l.log.Error("cannot return to the host's mount namespace", "error", err)
		}
	}
}

// next waits for work; not ok: the launcher is closed.
func (l *Launcher) next() (w work, ok bool) {
	select {
	case w = <-l.work:
		return w, true
	default:
	}
	select {
	case w = <-l.work:
	case w = <-l.later:
	case <-l.closed:
		return w, false
	}
	return w, true
}

// thread is the state of the launcher's OS thread; its methods run there only.
type thread struct {
	hostMounts *os.File // nil: children share the host's mount namespace
}

func (l *Launcher) prepareThread() (*thread, error) {
	t := &thread{}
	if l.config.Cgroup != "" {
		l.enterCgroup(t)
	}
	if !l.config.HideUnified {
		return t, nil
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("cannot give the launcher its own root: %w", err)
	}
	var err error
	t.hostMounts, err = os.Open("/proc/thread-self/ns/mnt")
	return t, err
}

// enterCgroup moves this thread alone, which version 1 allows.
func (l *Launcher) enterCgroup(t *thread) {
	tid := []byte(strconv.Itoa(unix.Gettid()))
	tasks, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", l.config.Cgroup, "tasks"))
	for _, file := range tasks {
		if err := os.WriteFile(file, tid, 0); err != nil {
			l.log.Warn("monitors stay in the daemon's cgroup", "hierarchy", file, "error", err)
		}
	}
}

// hideUnified moves the thread into a new copy of the host's mounts, without the unified tree.
func (t *thread) hideUnified() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// Slave, so that our umount does not leave; the rest stays shared as it was, for containers whose mounts shall be
	// seen on the host.
	if err := unix.Mount("", "/sys", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	return unix.Unmount(unifiedTree, unix.MNT_DETACH)
}

func (t *thread) close() {
	if t.hostMounts != nil {
		t.hostMounts.Close()
	}
}
