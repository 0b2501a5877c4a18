package kubeletapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

type executorFunc func(*rest.Config, *url.URL) (remotecommand.Executor, error)

func spdyExec(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
}

func v5Exec(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
}

func v4Exec(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u.String(), "v4.channel.k8s.io")
}

// exec runs a command the way kubectl does, without a terminal.
func (b *bench) exec(ctx context.Context, connect executorFunc, verb string, command []string, in io.Reader, out io.Writer) error {
	query := url.Values{"command": command, "output": {"1"}}
	if in != nil {
		query.Set("input", "1")
	}
	u, err := url.Parse(b.config.Host + "/" + verb + "/default/web/app?" + query.Encode())
	if err != nil {
		return err
	}
	executor, err := connect(b.config, u)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out})
}

type oneSize struct{ sent bool }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	if o.sent {
		return nil
	}
	o.sent = true
	return &remotecommand.TerminalSize{Width: 80, Height: 24}
}

func TestRemoteCommand(t *testing.T) {
	b := start(t)
	for name, connect := range map[string]executorFunc{"spdy": spdyExec, "websocket v5": v5Exec, "websocket v4": v4Exec} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if name != "websocket v4" { // which cannot say that stdin has ended
				if err := b.exec(t.Context(), connect, "exec", []string{"cat", "-"}, strings.NewReader("hello"), &out); err != nil {
					t.Fatal(err)
				}
				if got := out.String(); got != "c1: cat - tty=false\nhello" {
					t.Errorf("output %q", got)
				}
			}
			err := b.exec(t.Context(), connect, "exec", []string{"fail"}, nil, io.Discard)
			var exit exec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 3 {
				t.Errorf("error %v, want exit code 3", err)
			}
			err = b.exec(t.Context(), connect, "exec", []string{"break"}, nil, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "error executing command in container: no runtime") {
				t.Errorf("error %v", err)
			}
			out.Reset()
			if err := b.exec(t.Context(), connect, "attach", nil, nil, &out); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != "c1: attached tty=true\n" { // as the container was made
				t.Errorf("output %q", got)
			}
		})
		t.Run(name+" with a terminal", func(t *testing.T) {
			u, err := url.Parse(b.config.Host + "/exec/default/web/u1/app?command=size&output=1&tty=1")
			if err != nil {
				t.Fatal(err)
			}
			executor, err := connect(b.config, u)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{}}); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != "c1: size tty=true\n80x24" {
				t.Errorf("output %q", got)
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	b := start(t)
	u, err := url.Parse(b.config.Host + "/portForward/default/web")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(b.config)
	if err != nil {
		t.Fatal(err)
	}
	tunnelled, err := portforward.NewSPDYOverWebsocketDialer(u, b.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"spdy":                spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
		"spdy over websocket": tunnelled,
	} {
		t.Run(name, func(t *testing.T) {
			stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- forwarder.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatal(err)
			}
			ports, err := forwarder.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // connections over one tunnel
				conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, "ping")
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(conn)
				if err != nil || string(got) != "sandbox1:8080 ping" {
					t.Errorf("got %q (%v)", got, err)
				}
				conn.Close()
			}
			close(stop)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	b.engine.gone = true
	if code, body := b.call(t, b.config, "POST", "/portForward/default/web"); code != 500 || body != `pod not found ("web_default")` {
		t.Errorf("%d %q", code, body)
	}
}

// zeros is input without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestUnreadInputLeaksNothing ends commands that have read none of their input, with more under way.
func TestUnreadInputLeaksNothing(t *testing.T) {
	b := start(t)
	for name, connect := range map[string]executorFunc{"spdy": spdyExec, "websocket v5": v5Exec, "websocket v4": v4Exec} {
		t.Run(name, func(t *testing.T) {
			before := 0
			for i := range 20 {
				var exit exec.CodeExitError
				if err := b.exec(t.Context(), connect, "exec", []string{"fail"}, zeros{}, io.Discard); !errors.As(err, &exit) || exit.Code != 3 {
					t.Fatalf("error %v, want exit code 3", err)
				}
				if i == 4 {
					before = runtime.NumGoroutine()
				}
			}
			for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
				}
			}
		})
	}
}
