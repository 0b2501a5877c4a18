package probe

import (
	"bytes"
	"cmp"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/probe"
)

func portOf(t *testing.T, addr net.Addr) int32 { t.Helper(); return int32(addr.(*net.TCPAddr).Port) }

func TestHandlers(t *testing.T) {
	agent := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/home":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/long":
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		case "/headers":
			if r.Host != "example.org" || r.Header.Get("X-Probe") != "yes" || r.URL.RawQuery != "q=1" {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/slow":
			time.Sleep(1100 * time.Millisecond)
		}
	}))
	defer web.Close()
	webPort := portOf(t, web.Listener.Addr())

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, checks := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	checks.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	grpcPort := portOf(t, listener.Addr())

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := portOf(t, closed.Addr())
	closed.Close()

	httpGet := func(path string, port intstr.IntOrString) v1.ProbeHandler {
		return v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: port}}
	}
	tcp := func(port int32) v1.ProbeHandler {
		return v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(port)}}
	}
	down := "down"
	headers := httpGet("/headers?q=1", intstr.FromInt32(webPort))
	headers.HTTPGet.HTTPHeaders = []v1.HTTPHeader{{Name: "Host", Value: "example.org"}, {Name: "X-Probe", Value: "yes"}}
	elsewhere := httpGet("/", intstr.FromInt32(closedPort))
	elsewhere.HTTPGet.Host = "127.0.0.2"
	tcpElsewhere := tcp(closedPort)
	tcpElsewhere.TCPSocket.Host = "127.0.0.2"
	tests := []struct {
		name    string
		handler v1.ProbeHandler
		result  probe.Result
		output  string // a part of it
		err     string // a part of it
		length  int    // of the output, if not 0
		timeout int32  // seconds, if not 5
	}{
		{name: "http", handler: httpGet("/", intstr.FromString("http")), result: probe.Success},
		{name: "http 500", handler: httpGet("/bad", intstr.FromInt32(webPort)), result: probe.Failure, output: "HTTP probe failed with statuscode: 500"},
		{name: "http redirect", handler: httpGet("/away", intstr.FromInt32(webPort)), result: probe.Warning, output: "Probe terminated redirects"},
		{name: "http refused", handler: httpGet("/", intstr.FromInt32(closedPort)), result: probe.Failure, output: "connection refused"},
		{name: "http redirect on the host", handler: httpGet("/home", intstr.FromInt32(webPort)), result: probe.Success},
		{name: "http long body", handler: httpGet("/long", intstr.FromInt32(webPort)), result: probe.Success, length: 10 << 10},
		{name: "http headers", handler: headers, result: probe.Success},
		{name: "http host", handler: elsewhere, result: probe.Failure, output: "dial tcp 127.0.0.2:"},
		{name: "http timeout", handler: httpGet("/slow", intstr.FromInt32(webPort)), timeout: 1, result: probe.Failure,
			output: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
		{name: "https to http", handler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt32(webPort), Scheme: v1.URISchemeHTTPS}},
			result: probe.Failure, output: "server gave HTTP response to HTTPS client"},
		{name: "no such port", handler: httpGet("/", intstr.FromString("nope")), result: probe.Unknown, err: `port "nope" not found`},
		{name: "tcp", handler: tcp(webPort), result: probe.Success},
		{name: "tcp refused", handler: tcp(closedPort), result: probe.Failure, output: "connection refused"},
		{name: "tcp host", handler: tcpElsewhere, result: probe.Failure, output: "dial tcp 127.0.0.2:"},
		{name: "tcp named port", handler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("http")}}, result: probe.Success},
		{name: "port out of range", handler: tcp(70000), result: probe.Unknown, err: "invalid port number: 70000"},
		{name: "grpc", handler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort}}, result: probe.Success},
		{name: "grpc down", handler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: grpcPort, Service: &down}}, result: probe.Failure, output: `service unhealthy (responded with "NOT_SERVING")`},
		{name: "grpc refused", handler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: closedPort}}, timeout: 1, result: probe.Failure,
			output: "within 1s: context deadline exceeded"},
		{name: "exec fails", handler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}, result: probe.Failure, output: "false!"},
		{name: "exec long output", handler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{strings.Repeat("x", 1<<20)}}}, result: probe.Success, length: 10 << 10},
		{name: "exec", handler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check", "$(WHO)", "$(ELSE)"}}}, result: probe.Success, output: "check me $(ELSE)"},
		{name: "none", result: probe.Unknown, err: "missing probe handler for p_default(u):app"},
	}
	m := New(Config{Engine: echo{}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := podWith(v1.Container{
				Ports: []v1.ContainerPort{{Name: "http", ContainerPort: webPort}},
				Env:   []v1.EnvVar{{Name: "WHO", Value: "me"}},
			})
			a := attempt{pod: pod, container: &pod.Spec.Containers[0], podIP: "127.0.0.1", spec: &v1.Probe{ProbeHandler: tt.handler, TimeoutSeconds: cmp.Or(tt.timeout, 5)}}
			result, output, err := m.try(t.Context(), a)
			if result != tt.result || !strings.Contains(output, tt.output) {
				t.Errorf("%s %q, want %s %q", result, output, tt.result, tt.output)
			}
			if tt.length != 0 && len(output) != tt.length {
				t.Errorf("%d bytes of output, want %d", len(output), tt.length)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
	if !strings.HasPrefix(agent, "kube-probe/") {
		t.Errorf("User-Agent %q", agent)
	}
}

// echo is an engine whose commands print themselves, and false fails.
type echo struct{}

func (echo) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	resp := &runtimeapi.ExecSyncResponse{Stdout: []byte(strings.Join(req.Cmd, " "))}
	if req.Cmd[0] == "false" {
		resp.ExitCode, resp.Stderr = 1, []byte("!")
	}
	return resp, nil
}
