package hook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	pod       = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "123"}}
	container = &v1.Container{Name: "app", Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 1}}}
)

func TestExec(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name       string
		resp       *runtimeapi.ExecSyncResponse
		err        error
		cause, msg string
	}{
		{name: "succeeds", resp: &runtimeapi.ExecSyncResponse{Stdout: []byte("out\n"), Stderr: []byte("err\n")}},
		{name: "fails", resp: &runtimeapi.ExecSyncResponse{Stderr: []byte("no such file"), ExitCode: 2}, cause: "exit code 2: no such file",
			msg: `Exec lifecycle hook ([sh -c x]) for Container "app" in Pod "web_default(123)" failed - error: command 'sh -c x' exited with 2: no such file, message: "no such file"`},
		{name: "fails silently", resp: &runtimeapi.ExecSyncResponse{ExitCode: 2}, cause: "exit code 2",
			msg: `Exec lifecycle hook ([sh -c x]) for Container "app" in Pod "web_default(123)" failed - error: command 'sh -c x' exited with 2: , message: ""`},
		{name: "engine fails", err: boom, cause: "boom",
			msg: `Exec lifecycle hook ([sh -c x]) for Container "app" in Pod "web_default(123)" failed - error: boom, message: ""`},
		{name: "much output", resp: &runtimeapi.ExecSyncResponse{Stdout: []byte(strings.Repeat("a", 3000) + "z"), ExitCode: 1},
			cause: "exit code 1: " + strings.Repeat("a", maxOutput-1) + "z",
			msg: `Exec lifecycle hook ([sh -c x]) for Container "app" in Pod "web_default(123)" failed - error: command 'sh -c x' exited with 1: , message: "` +
				strings.Repeat("a", maxOutput-1) + `z"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cause, err := New(Config{}).Run(t.Context(), Call{
				Pod: pod, Container: container, Handler: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "x"}}},
				Exec: func(_ context.Context, command []string) (*runtimeapi.ExecSyncResponse, error) {
					if !slices.Equal(command, []string{"sh", "-c", "x"}) {
						t.Errorf("command %q", command)
					}
					return tt.resp, tt.err
				},
			})
			if cause != tt.cause {
				t.Errorf("cause %q, want %q", cause, tt.cause)
			}
			if (err != nil) != (tt.msg != "") || err != nil && err.Error() != tt.msg {
				t.Errorf("error %v, want %s", err, tt.msg)
			}
			if tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v does not wrap %v", err, tt.err)
			}
		})
	}
}

// action addresses a test server by the container's named port and the Pod's IP.
func action(t *testing.T, server *httptest.Server, scheme v1.URIScheme) (*v1.LifecycleHandler, *v1.Container, string) {
	t.Helper()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	c := &v1.Container{Name: "app", Ports: []v1.ContainerPort{{Name: "http", ContainerPort: int32(addr.Port)}}}
	return &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{
		Path: "/hook", Port: intstr.FromString("http"), Scheme: scheme,
		HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: "secret"}, {Name: "X-Test", Value: "1"}},
	}}, c, addr.IP.String()
}

func TestHTTPGet(t *testing.T) {
	var got *http.Request
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r; w.WriteHeader(http.StatusInternalServerError) })
	plain, secure := httptest.NewServer(serve), httptest.NewTLSServer(serve)
	defer plain.Close()
	defer secure.Close()

	t.Run("any status will do", func(t *testing.T) {
		h, c, ip := action(t, plain, "")
		if _, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: c, PodIP: ip, Handler: h}); err != nil {
			t.Fatal(err)
		}
		if got.URL.Path != "/hook" || got.Header.Get("X-Test") != "1" || !strings.HasPrefix(got.UserAgent(), "kube-lifecycle/") {
			t.Errorf("request %s with headers %v", got.URL, got.Header)
		}
	})
	t.Run("https is not verified", func(t *testing.T) {
		h, c, ip := action(t, secure, v1.URISchemeHTTPS)
		if _, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: c, PodIP: ip, Handler: h}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("https falls back to http without credentials", func(t *testing.T) {
		events := record.NewFakeRecorder(1)
		h, c, ip := action(t, plain, v1.URISchemeHTTPS)
		if _, err := New(Config{Recorder: events}).Run(t.Context(), Call{Pod: pod, Container: c, PodIP: ip, Handler: h}); err != nil {
			t.Fatal(err)
		}
		if got.Header.Get("Authorization") != "" {
			t.Error("the Authorization header went over plain HTTP")
		}
		if e := <-events.Events; !strings.HasPrefix(e, "Warning LifecycleHTTPFallback request to HTTPS lifecycle hook 127.0.0.1:") {
			t.Errorf("event %q", e)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		gone := httptest.NewServer(serve)
		h, c, ip := action(t, gone, "")
		gone.Close()
		cause, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: c, PodIP: ip, Handler: h})
		if strings.Contains(cause, "/hook") || !strings.Contains(cause, "connection refused") {
			t.Errorf("cause %q", cause)
		}
		if err == nil || !strings.HasPrefix(err.Error(), `HTTP lifecycle hook (/hook) for Container "app" in Pod "web_default(123)" failed - error: Get "http://127.0.0.1:`) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no address", func(t *testing.T) {
		h, c, _ := action(t, plain, "")
		if _, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: c, Handler: h}); err == nil {
			t.Error("no error")
		}
	})
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}}
		if _, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: container, Handler: h}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("slept %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := New(Config{}).Run(ctx, Call{Pod: pod, Container: container, Handler: h})
		const want = `Sleep lifecycle hook (5) for Container "app" in Pod "web_default(123)" failed - error: container terminated before sleep hook finished`
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
}

func TestInvalidHandler(t *testing.T) {
	_, err := New(Config{}).Run(t.Context(), Call{Pod: pod, Container: container, Handler: &v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{}}})
	if !errors.Is(err, ErrInvalidHandler) || !strings.HasPrefix(err.Error(), "Cannot run handler: invalid handler: ") {
		t.Errorf("error %v", err)
	}
}
