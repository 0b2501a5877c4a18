// Package apiserver serves the Kubernetes API: upstream's registries, validation, printers, authorizers and admission
// plugins over an etcd, for the resources of one table (resources.go).
//
// Invariants: what clients see of a served resource is upstream's behaviour; nothing outside the table shows in discovery;
// callers in this process are authenticated by the call itself, everybody else by client certificate or service account
// token over TLS.
package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/capabilities"

	"golang.org/x/sync/errgroup"

	"peapod.dev/peapod/internal/apiserver/inprocess"
	"peapod.dev/peapod/internal/apiserver/pki"
)

const (
	// watchGrace is how long open watches may take to end when the server stops. They are told to; it is for slow clients.
	watchGrace = 200 * time.Millisecond
	// closeGrace is how long connections may take to end after that. It cuts off streams (exec, logs -f).
	closeGrace = 250 * time.Millisecond
)

// Config says what to serve, and where.
type Config struct {
	// Listen is HOST:PORT; port 0 is any that is free.
	Listen string
	// PKIDir holds keys and certificates; what is missing is made.
	PKIDir string
	// Transport leads to etcd.
	Transport storagebackend.TransportConfig
	// Hostnames and IPs are for the serving certificate, which covers this machine's own names and addresses anyway.
	Hostnames []string
	IPs       []net.IP
	// PublicIP is where others reach this machine when Listen has a wildcard; nil means nowhere but here.
	PublicIP net.IP
	// Version is gitVersion at /version, say v1.37.2+peapod.0.1.0.
	Version string
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Server is an API server.
type Server struct {
	log       *slog.Logger
	pki       *pki.PKI
	listener  net.Listener
	handler   *lateHandler
	loopback  *rest.Config
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	options   *restOptions
	generic   *genericapiserver.GenericAPIServer
	stop      context.CancelFunc // ends what New started
	ready     chan struct{}
}

// lateHandler is what in-process clients call. Clients are made before the handler that they are part of.
type lateHandler struct{ http.Handler }

// New connects to etcd, which must be up, and listens. Connections wait until Run serves them. A Server must be Run, for
// Run also closes it.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{log: cfg.Log, handler: &lateHandler{}, ready: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.pki, err = pki.Open(cfg.PKIDir); err != nil {
		return nil, err
	}
	// Upstream's validation asks a value of the whole process whether privileged containers may be: as in every
	// common cluster they may, and pod security admission says where not.
	capabilities.Setup(true, 0)
	s.loopback = s.inProcess(&user.DefaultInfo{
		Name: user.APIServerUser, Groups: []string{user.AllAuthenticated, user.SystemPrivilegedGroup},
	})
	if s.client, err = kubernetes.NewForConfig(s.loopback); err != nil {
		return nil, err
	}
	if s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", cfg.Listen, err)
	}
	if err := s.build(cfg); err != nil {
		_ = s.listener.Close()
		return nil, fmt.Errorf("cannot set up API server: %w", err)
	}
	return s, nil
}

// Run serves until ctx ends, then stops within a second even while watches are open, and closes the server.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	prepared := s.generic.PrepareRun()
	g.Go(func() error {
		defer s.stop()
		return prepared.RunWithContext(ctx)
	})
	g.Go(func() error {
		defer s.informers.Shutdown()
		err := s.boot(ctx)
		if err == nil {
			close(s.ready)
			<-ctx.Done()
		} else if ctx.Err() != nil {
			return nil // stopped before it was ready
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("API server failed: %w", err)
	}
	return nil
}

// boot returns when requests can be answered as they will be from then on.
func (s *Server) boot(ctx context.Context) error {
	if err := s.options.waitForCaches(ctx); err != nil {
		return err
	}
	s.informers.StartWithContext(ctx)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bootstrap(gctx, s.client) })
	g.Go(func() error { return s.informers.WaitForCacheSyncWithContext(gctx).AsError() })
	return g.Wait()
}

// Ready is closed when /readyz would say ok: authorizers and admission plugins have their data, and the system namespaces,
// priority classes and roles exist.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// checkReady is part of /readyz.
func (s *Server) checkReady(*http.Request) error {
	select {
	case <-s.ready:
		return nil
	default:
		return errors.New("still starting")
	}
}

// Address is the HOST:PORT that is really listened on.
func (s *Server) Address() string { return s.listener.Addr().String() }

// LoopbackConfig is for clients in this process, which may do everything. It needs no network, TLS or credentials.
func (s *Server) LoopbackConfig() *rest.Config { return rest.CopyConfig(s.loopback) }

// NodeConfig is for the agent of the given node in this process, which may do what a kubelet may.
func (s *Server) NodeConfig(nodeName string) *rest.Config {
	return s.inProcess(&user.DefaultInfo{
		Name: "system:node:" + nodeName, Groups: []string{user.AllAuthenticated, user.NodesGroup},
	})
}

func (s *Server) inProcess(u user.Info) *rest.Config {
	return &rest.Config{
		Host:      "http://in-process",
		Transport: &inprocess.Transport{Handler: s.handler, User: u},
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
		QPS: -1, // the server limits what is in flight; a client in the same process need not
	}
}

// Informers are the server's own: others in this process share their caches. Run starts and stops them.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// PublicAddress is the host:port by which Pods and other machines reach the server.
func (s *Server) PublicAddress() string { return s.generic.ExternalAddress }

// CA is the certificate authority in PEM: what Pods get in kube-root-ca.crt.
func (s *Server) CA() []byte { return s.pki.CA() }

// ClientCAs verifies the API server's, and other clients', certificates at a node's HTTPS API.
func (s *Server) ClientCAs() *x509.CertPool { return s.pki.CAPool() }

// KubeletServing issues the certificate of a node's HTTPS API.
func (s *Server) KubeletServing(nodeName string, ips []net.IP) (tls.Certificate, error) {
	return s.pki.KubeletServing(nodeName, ips)
}
