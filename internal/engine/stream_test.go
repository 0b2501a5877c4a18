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
				c := suite.NewPod(t).Run("trap 'exit 0' TERM; sleep 1000 & wait")
				if got := c.Exec("echo x"); got != "x" {
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

// TestExecLeaksNothing runs many commands and counts descriptors, processes, goroutines' threads and files.
func TestExecLeaksNothing(t *testing.T) {
	s := newSetup(t)
	c := s.suite().NewPod(t).Run("sleep 1000")
	count := func() int {
		fds, _ := os.ReadDir("/proc/self/fd")
		bundle, _ := os.ReadDir(s.config.RunRoot + "/containers/" + c.ID)
		crun, _ := exec.Command("find", s.config.RunRoot, "-newermt", "2000-01-01").Output()
		children, _ := exec.Command("ps", "--no-headers", "--ppid", fmt.Sprint(os.Getpid())).Output()
		return len(fds) + len(bundle) + bytes.Count(crun, []byte("\n")) + bytes.Count(children, []byte("\n"))
	}
	c.Exec("true")
	before := count()
	n := 200
	if testing.Short() {
		n = 20
	}
	for i := range n {
		if i%4 == 3 {
			var out output
			if err := s.engine.Streams().Exec(t.Context(), c.ID, []string{"echo", "x"}, nil, &out, nil, true, nil); err != nil || out.String() != "x\r\n" {
				t.Errorf("%v, %q", err, out.String())
			}
			continue
		}
		c.Exec("true")
	}
	enginetest.Eventually(t, func() bool { return count() <= before }, fmt.Sprintf("%d things before", before))
	if got := c.Exec("ps | wc -l"); got != "5" && got != "4" { // its header, sleep, sh, ps and, if it has begun, wc
		t.Errorf("%s lines of ps", got)
	}
}
