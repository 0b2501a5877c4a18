// Package kubeletapi serves the HTTPS API that an API server (and metrics collectors) expect of a
// kubelet: logs, exec, attach, port-forward, run, pods, stats, metrics and health.
//
// Paths, parameters, status codes, texts and authorization attributes are those of pkg/kubelet/server
// in Kubernetes 1.37. Exec and attach speak SPDY and WebSocket up to the v5 channel protocol,
// port-forward speaks SPDY, WebSocket and SPDY tunnelled through WebSocket; streams go straight to the
// engine, without a hop to another server.
//
// Invariants:
//   - Nothing is served to a caller without a certificate signed by the cluster's CA, nor without the
//     Authorizer's consent.
//   - Everything that a request starts ends with the request, and all requests end with Run.
package kubeletapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/component-base/metrics/legacyregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// Engine is the part of the CRI runtime service that the API is served from.
type Engine interface {
	ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error)
	ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error)
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
}

// Authorizer says whether a user may use a subresource (proxy, stats, metrics, pods, healthz) of this
// node; verb is that of the API: get, create, … An error refuses. It is called concurrently.
type Authorizer func(ctx context.Context, u user.Info, verb, subresource string) error

// Config is what a Server needs.
type Config struct {
	NodeName    string
	Listen      string // host:port; port 0 picks one
	Certificate tls.Certificate
	ClientCAs   *x509.CertPool // sign the certificates of those who may call
	Authorize   Authorizer

	// Pods returns the Pods of this node, each with its newest status. The objects are only read.
	Pods   func() []*v1.Pod
	Engine Engine
	// Streams carries exec, attach and port-forward. A command's non-zero exit must be returned as a
	// k8s.io/utils/exec.ExitError.
	Streams streaming.Runtime
	// Exited returns when the container does not run (any more), or when ctx ends. It is what ends
	// "logs --follow".
	Exited func(ctx context.Context, containerID string)

	Log *slog.Logger // nil means slog.Default()
}

// shutdownTimeout is how long requests in flight may take to notice that the server ends.
const shutdownTimeout = 5 * time.Second

// Server is the kubelet API of this node.
type Server struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	handlers sync.WaitGroup // of requests in flight
}

// New listens on the configured address, so that Port is known and connections queue up from now on.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the kubelet API: %w", err)
	}
	return &Server{cfg: cfg, log: cfg.Log, listener: listener}, nil
}

// Port is the one really listened on.
func (s *Server) Port() int32 { return int32(s.listener.Addr().(*net.TCPAddr).Port) }

// connKey is the context key of a request's connection.
type connKey struct{}

// Run serves until ctx ends, then ends all requests, open streams included, and returns.
func (s *Server) Run(ctx context.Context) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler: s.handler(),
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{s.cfg.Certificate},
			ClientCAs:    s.cfg.ClientCAs,
			ClientAuth:   tls.VerifyClientCertIfGiven, // those without one get a 401 rather than a broken connection
		},
		// No limit on reading or writing as a whole: logs are followed and streams stay open for hours.
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20, // the command of an exec is in the URL
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(s.listener, "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("cannot serve the kubelet API: %w", err)
	case <-ctx.Done():
	}
	cancel() // ends what runs on behalf of requests
	err := server.Close()
	<-served
	done := make(chan struct{})
	go func() { s.handlers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(shutdownTimeout):
		s.log.Warn("Requests to the kubelet API have not ended in time")
	}
	return err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.HandlerFunc) { mux.HandleFunc("GET "+path, h) }
	get("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	get("/healthz/{check}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	get("/pods", s.servePods)
	get("/pods/{$}", s.servePods)
	get("/runningpods/{$}", s.serveRunningPods)
	get("/containerLogs/{namespace}/{pod}/{container}", s.serveLogs)
	get("/stats/summary", s.serveSummary)
	get("/metrics", legacyregistry.Handler().ServeHTTP)
	get("/metrics/resource", s.resourceMetrics().ServeHTTP)
	for _, uid := range []string{"", "/{uid}"} { // both forms are in the contract
		container := "/{namespace}/{pod}" + uid + "/{container}"
		mux.HandleFunc("POST /run"+container, s.serveRun)
		for _, method := range []string{"GET ", "POST "} { // GET is what WebSocket needs
			mux.HandleFunc(method+"/exec"+container, s.stream(s.serveExec))
			mux.HandleFunc(method+"/attach"+container, s.stream(s.serveAttach))
			mux.HandleFunc(method+"/portForward/{namespace}/{pod}"+uid, s.stream(s.servePortForward))
		}
	}
	return s.authorized(mux)
}

// authorized lets through whom the CA vouches for and the Authorizer allows at least one of the
// subresources that a path stands for.
func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		u := identify(r)
		if u == nil {
			writeError(w, http.StatusUnauthorized, errors.New("Unauthorized"))
			return
		}
		verb, subresources := verbOf(r.Method), subresourcesOf(r.URL.Path)
		var refusal error
		for _, subresource := range subresources {
			if refusal = s.cfg.Authorize(r.Context(), u, verb, subresource); refusal == nil {
				next.ServeHTTP(w, r)
				return
			}
		}
		s.log.Info("Refused a request to the kubelet API", "user", u.GetName(), "verb", verb, "subresources", subresources, "error", refusal)
		writeError(w, http.StatusForbidden, fmt.Errorf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)\n", u.GetName(), verb, subresources))
	})
}

// identify returns the user that a verified client certificate names, nil without one.
func identify(r *http.Request) user.Info {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	subject := r.TLS.VerifiedChains[0][0].Subject
	return &user.DefaultInfo{Name: subject.CommonName, Groups: append([]string{user.AllAuthenticated}, subject.Organization...)}
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "get"
}

// subresourcesOf lists the subresources of nodes any of which gives access to a path
// (pkg/kubelet/server/auth.go). What has none of its own is "proxy".
func subresourcesOf(path string) []string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "stats", "metrics":
		return []string{first}
	case "healthz", "pods":
		return []string{first, "proxy"}
	case "runningpods":
		return []string{"pods", "proxy"}
	}
	return []string{"proxy"}
}

// writeError answers with the plain text of err; the API server makes a Status of it.
func writeError(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(err.Error()))
}
