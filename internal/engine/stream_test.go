package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"peapod.dev/peapod/internal/engine/enginetest"
)

// output is a client's stream that is written to from other goroutines.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) { o.mu.Lock(); defer o.mu.Unlock(); return o.b.Write(p) }
func (o *output) String() string              { o.mu.Lock(); defer o.mu.Unlock(); return o.b.String() }
func (o *output) Close() error                { return nil }

// counter counts what it passes on.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) { c.n += int64(len(b)); return c.w.Write(b) }
func (c *counter) Close() error                { return nil }

func (o *output) await(t *testing.T, want string) {
	t.Helper()
	enginetest.Eventually(t, func() bool { return strings.Contains(o.String(), want) }, "no "+want)
}

func TestStreams(t *testing.T) {
	s := newSetup(t)
	p := s.suite().NewPod(t)
	c := p.Run("sleep 1000")
	streams := s.engine.Streams()

	t.Run("exec", func(t *testing.T) {
		var out, errs output
		err := streams.Exec(t.Context(), c.ID, []string{"sh", "-c", "cat; echo err >&2; exit 3"}, strings.NewReader("in\n"), &out, &errs, false, nil)
		var code utilexec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 3 || out.String() != "in\n" || errs.String() != "err\n" {
			t.Errorf("%v, %q, %q", err, out.String(), errs.String())
		}
	})
	t.Run("exec of nothing", func(t *testing.T) {
		var out, errs output
		err := streams.Exec(t.Context(), c.ID, []string{"/none"}, nil, &out, &errs, false, nil)
		if err == nil || errors.As(err, new(utilexec.ExitError)) || !strings.Contains(err.Error(), "/none") {
			t.Errorf("%v", err)
		}
		err = streams.Exec(t.Context(), c.ID, []string{"/none"}, nil, &out, nil, true, nil)
		if err == nil || errors.As(err, new(utilexec.ExitError)) || !strings.Contains(err.Error(), "/none") {
			t.Errorf("with a terminal: %v", err)
		}
	})
	t.Run("exec with terminal", func(t *testing.T) {
		var out output
		in, keyboard := io.Pipe()
		sizes := make(chan remotecommand.TerminalSize)
		ended := make(chan error, 1)
		go func() {
			ended <- streams.Exec(t.Context(), c.ID, []string{"sh"}, in, &out, nil, true, sizes)
		}()
		sizes <- remotecommand.TerminalSize{Width: 91, Height: 37}
		out.await(t, "# ")
		enginetest.Eventually(t, func() bool {
			fmt.Fprintln(keyboard, "stty size; tty")
			time.Sleep(50 * time.Millisecond)
			return strings.Contains(out.String(), "37 91")
		}, "the terminal was not resized")
		fmt.Fprintln(keyboard, "exit 9")
		err := <-ended
		var code utilexec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 9 || !strings.Contains(out.String(), "/dev/pts/") {
			t.Errorf("%v, %q", err, out.String())
		}
		keyboard.Close()
	})
	t.Run("client goes away", func(t *testing.T) {
		for _, tty := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			var out output
			ended := make(chan error, 1)
			go func() {
				ended <- streams.Exec(ctx, c.ID, []string{"sh", "-c", "trap '' HUP TERM; echo ready; sleep 3001"}, nil, &out, nil, tty, nil)
			}()
			out.await(t, "ready")
			cancel()
			if err := <-ended; err == nil {
				t.Error("no error")
			}
			enginetest.Eventually(t, func() bool { return !strings.Contains(c.Exec("ps -o args"), "sleep 3001") }, "the command lives on")
		}
		sizes := make(chan remotecommand.TerminalSize)
		var out output
		ended := make(chan error, 1)
		go func() {
			ended <- streams.Exec(t.Context(), c.ID, []string{"sh", "-c", "echo ready; sleep 3001"}, nil, &out, nil, true, sizes)
		}()
		out.await(t, "ready")
		close(sizes)
		<-ended
	})
	t.Run("client takes no more", func(t *testing.T) {
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- streams.Exec(t.Context(), c.ID, []string{"sh", "-c", "while echo line; do :; done; exit 6"}, nil, w, nil, false, nil)
		}()
		if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		r.Close()
		var code utilexec.ExitError
		if err := <-ended; !errors.As(err, &code) || code.ExitStatus() != 128+13 {
			t.Errorf("%v", err)
		}
	})
	t.Run("exec that leaves a process behind", func(t *testing.T) {
		for _, tty := range []bool{false, true} {
			var out output
			begin := time.Now()
			err := streams.Exec(t.Context(), c.ID, []string{"sh", "-c", "sleep 3002 & printf %70000d 1; exit 4"}, nil, &out, nil, tty, nil)
			var code utilexec.ExitError
			if !errors.As(err, &code) || code.ExitStatus() != 4 || len(out.String()) != 70000 {
				t.Errorf("terminal %v: %v, %d bytes", tty, err, len(out.String()))
			}
			if d := time.Since(begin); !tty && d > 900*time.Millisecond {
				t.Errorf("it was waited for: %v", d)
			}
		}
		if got := c.Exec("ps -o args"); !strings.Contains(got, "sleep 3002") {
			t.Errorf("the process that was left behind: %s", got)
		}
		begin := time.Now()
		if got := c.Exec("sleep 3003 & echo x"); got != "x" {
			t.Errorf("%q", got)
		}
		if d := time.Since(begin); d > 900*time.Millisecond {
			t.Errorf("ExecSync waited %v", d)
		}
		c.Exec("kill $(ps -o pid,args | awk '/[s]leep 300[23]/ { print $1 }')")
	})
	t.Run("exec with much input and output", func(t *testing.T) {
		const size = 64 << 20
		var sent, got hash.Hash = sha256.New(), sha256.New()
		in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
		counted := &counter{w: got}
		if err := streams.Exec(t.Context(), c.ID, []string{"cat"}, in, counted, nil, false, nil); err != nil {
			t.Error(err)
		}
		if counted.n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("%d bytes came back of %d, or others", counted.n, size)
		}
		// Input that nobody reads does not hold the command open.
		endless, w := io.Pipe()
		defer endless.Close()
		go io.Copy(w, rand.NewChaCha8([32]byte{2}))
		var out output
		if err := streams.Exec(t.Context(), c.ID, []string{"echo", "x"}, endless, &out, nil, false, nil); err != nil || out.String() != "x\n" {
			t.Errorf("%v, %q", err, out.String())
		}
	})
	t.Run("attach", func(t *testing.T) {
		a := p.Run("read x; echo got $x; read y && echo more || echo eof", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
		var out output
		if err := streams.Attach(t.Context(), a.ID, strings.NewReader("hello\n"), &out, nil, false, nil); err != nil {
			t.Error(err)
		}
		if out.String() != "got hello\neof\n" {
			t.Errorf("%q", out.String())
		}
		a.WaitExit()
	})
	t.Run("attach twice", func(t *testing.T) {
		a := p.Run("read x; echo got $x; read y; echo then $y; sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
		var watcher, silent output
		watching := make(chan error, 1)
		go func() { watching <- streams.Attach(t.Context(), a.ID, nil, &watcher, nil, false, nil) }()
		for _, word := range []string{"one\n", "two\n"} { // the end of input detaches, and the next client finds it open
			if err := streams.Attach(t.Context(), a.ID, strings.NewReader(word), &silent, nil, false, nil); err != nil {
				t.Error(err)
			}
		}
		watcher.await(t, "then two\n")
		a.Stop(0)
		if err := <-watching; err != nil {
			t.Error(err)
		}
	})
	t.Run("attach to a terminal", func(t *testing.T) {
		a := p.Run("sh", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true })
		var out output
		in, keyboard := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		sizes := make(chan remotecommand.TerminalSize)
		go func() { ended <- streams.Attach(ctx, a.ID, in, &out, nil, true, sizes) }()
		sizes <- remotecommand.TerminalSize{Width: 88, Height: 33}
		enginetest.Eventually(t, func() bool {
			fmt.Fprintln(keyboard, "stty size")
			time.Sleep(50 * time.Millisecond)
			return strings.Contains(out.String(), "33 88")
		}, "the terminal was not resized")
		cancel()
		<-ended
		if st := a.Status(); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after detaching: %v", st)
		}
		a.Stop(0)
	})
	t.Run("port-forward", func(t *testing.T) {
		w := p.Run("while :; do echo hi | nc -l -p 8080; done")
		var out output
		enginetest.Eventually(t, func() bool {
			err := streams.PortForward(t.Context(), p.ID, 8080, newClient(&out))
			return err == nil && out.String() != ""
		}, "no answer")
		if out.String() != "hi\n" {
			t.Errorf("%q", out.String())
		}
		w.Stop(0)
		if err := streams.PortForward(t.Context(), p.ID, 8081, nil); err == nil {
			t.Error("a port without listener")
		}
	})
}

// client of a forwarded port: says nothing, and ends when it is closed.
type client struct {
	*io.PipeReader
	*output
}

func newClient(o *output) client {
	r, _ := io.Pipe()
	return client{r, o}
}

func (c client) Close() error { return c.PipeReader.Close() }

func TestManyAtOnce(t *testing.T) {
	s := newSetup(t)
	begin := time.Now()
	suite := s.suite()
	t.Run("pods", func(t *testing.T) {
		for i := range 40 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				c := suite.NewPod(t).Run("trap 'exit 0' TERM; : > /trapped; sleep 1000 & wait")
				// Until it has its trap, process 1 ignores TERM.
				if got := c.Exec("until [ -e /trapped ]; do sleep 0.01; done; echo x"); got != "x" {
					t.Error(got)
				}
				c.Stop(20)
				if st := c.Status(); st.ExitCode != 0 {
					t.Errorf("%v", st)
				}
			})
		}
	})
	t.Logf("40 Pods from creation to removal in %v", time.Since(begin))
}

// TestExecLeaksNothing runs many commands, of each kind, and counts what they could leave. PEAPOD_TEST_EXECS is how many,
// if not 200.
func TestExecLeaksNothing(t *testing.T) {
	s := newSetup(t)
	c := s.suite().NewPod(t).Run("sleep 1000")
	lines := func(name string, arg ...string) int {
		out, _ := exec.Command(name, arg...).Output()
		return bytes.Count(out, []byte("\n"))
	}
	entries := func(dir string) int {
		all, _ := os.ReadDir(dir)
		return len(all)
	}
	things := []struct {
		name  string
		count func() int
		more  int // that may come on their own
	}{
		{"descriptors", func() int { return entries("/proc/self/fd") }, 0},
		{"goroutines", runtime.NumGoroutine, 0},
		{"threads", func() int { return entries("/proc/self/task") }, 8},
		{"children", func() int { return lines("ps", "--no-headers", "--ppid", fmt.Sprint(os.Getpid())) }, 0},
		{"processes of the container", func() int { return strings.Count(c.Exec("ps -o pid"), "\n") }, 0},
		{"mounts", func() int { return lines("grep", filepath.Dir(s.config.RunRoot), "/proc/self/mountinfo") }, 0},
		{"files", func() int { return lines("find", s.config.RunRoot) }, 0},
		{"control groups", func() int {
			return lines("find", "/sys/fs/cgroup", "-type", "d", "-path", "*"+s.config.CgroupParent+"*")
		}, 0},
		{"MB on the heap", func() int {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc >> 20)
		}, 2},
	}
	streams := s.engine.Streams()
	run := func(i int) {
		var out output
		var err error
		want := "x\n"
		switch in, _ := io.Pipe(); i % 6 {
		case 0:
			out.Write([]byte(c.Exec("echo x") + "\n"))
		case 1:
			err = streams.Exec(t.Context(), c.ID, []string{"echo", "x"}, strings.NewReader("nobody reads this"), &out, &out, false, nil)
		case 2:
			err, want = streams.Exec(t.Context(), c.ID, []string{"echo", "x"}, nil, &out, nil, true, nil), "x\r\n"
		case 3: // a client that says nothing more, and stays until the command has ended
			err = streams.Exec(t.Context(), c.ID, []string{"echo", "x"}, in, &out, nil, false, nil)
			in.Close()
		case 4: // one that goes away
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			_ = streams.Exec(ctx, c.ID, []string{"sleep", "1000"}, nil, &out, nil, i%12 == 4, nil)
			want = ""
		case 5:
			_, _ = s.engine.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"/none"}})
			want = ""
		}
		if err != nil || out.String() != want {
			t.Errorf("%v, %q, want %q", err, out.String(), want)
		}
	}
	for i := range 12 {
		run(i)
	}
	before := make([]int, len(things))
	for i, thing := range things {
		before[i] = thing.count()
	}
	n := 200
	if s := os.Getenv("PEAPOD_TEST_EXECS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if testing.Short() {
		n = 20
	}
	begin := time.Now()
	for i := range n {
		run(i)
	}
	t.Logf("%d commands in %v", n, time.Since(begin))
	for i, thing := range things {
		enginetest.Eventually(t, func() bool { return thing.count() <= before[i]+thing.more }, fmt.Sprintf("more %s than the %d before", thing.name, before[i]))
		t.Logf("%s: %d before, %d after", thing.name, before[i], thing.count())
	}
	if got := c.Exec("ps | wc -l"); got != "5" && got != "4" { // its header, sleep, sh, ps and, if it has begun, wc
		t.Errorf("%s lines of ps", got)
	}
}
