package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/routes"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"peapod.dev/peapod/internal/apiserver/admission"
	"peapod.dev/peapod/internal/apiserver/auth"
	"peapod.dev/peapod/internal/apiserver/informer"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
)

// build makes the generic server. What it starts ends with s.stop.
func (s *Server) build(cfg Config) (err error) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	defer func() {
		if err != nil {
			stop()
		}
	}()

	if err := enableFeatures(); err != nil {
		return err
	}
	c := genericapiserver.NewConfig(legacyscheme.Codecs)
	version := newEffectiveVersion(cfg.Version)
	c.EffectiveVersion = version
	c.EnableProfiling = false
	c.LoopbackClientConfig = s.loopback
	c.ShutdownWatchTerminationGracePeriod = watchGrace
	c.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
	if err := s.setServing(c, cfg); err != nil {
		return err
	}

	s.informers = informer.NewFactory(s.client)
	tokens, err := auth.NewTokens(s.pki.ServiceAccountKey())
	if err != nil {
		return err
	}
	c.Authentication.APIAudiences = authenticator.Audiences{auth.Issuer}
	c.Authentication.Authenticator = auth.NewAuthenticator(s.pki.CAPool(), tokens, s.client, s.informers)
	if c.Authorization.Authorizer, c.RuleResolver, err = auth.NewAuthorizer(s.informers); err != nil {
		return err
	}

	rows := resources()
	c.MergedResourceConfig = served(rows)
	s.options = newRESTOptions(cfg.Transport, version, c.MergedResourceConfig)
	c.RESTOptionsGetter = s.options
	if err := s.addHealthChecks(ctx, c); err != nil {
		return err
	}
	policies, err := podsecuritypolicy.NewREST(s.options)
	if err != nil {
		return fmt.Errorf("cannot open registry of podsecuritypolicies: %w", err)
	}
	c.AdmissionControl, err = admission.New(admission.Config{
		Client: s.client, Informers: s.informers, Authorize: c.Authorization.Authorizer, Version: version,
		Served: c.MergedResourceConfig, Policies: policies.Policies, Drained: ctx.Done(),
	})
	if err != nil {
		return err
	}
	setOpenAPI(c)

	completed := c.Complete(nil) // Run starts the informers itself, and waits for them without polling
	if s.generic, err = completed.New("kube-apiserver", genericapiserver.NewEmptyDelegate()); err != nil {
		return err
	}
	s.generic.ShutdownTimeout = closeGrace
	s.handler.Handler = s.generic.Handler
	defer func() {
		if err != nil {
			s.generic.Destroy()
		}
	}()

	r := &registries{
		options: s.options, authenticate: c.Authentication.Authenticator, authorize: c.Authorization.Authorizer,
		rules: c.RuleResolver, tokens: tokens, budgets: s.client.PolicyV1(), pki: s.pki, policies: policies,
		address: c.ExternalAddress,
	}
	groups, err := r.groups(rows)
	if err != nil {
		return err
	}
	if err := s.generic.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, groups[0]); err != nil {
		return err
	}
	if err := s.generic.InstallAPIGroups(groups[1:]...); err != nil {
		return err
	}
	c.OpenAPIV3Config.Definitions = nil // needed by the installation only, and large; GetDefinitions makes them anew
	serveOpenAPI(s.generic, c)
	return s.serveIssuer(tokens)
}

// serveIssuer lets others verify service account tokens (OpenID discovery).
func (s *Server) serveIssuer(tokens *auth.Tokens) error {
	p, err := serviceaccount.NewOpenIDMetadataProvider(auth.Issuer, "", s.generic.ExternalAddress, tokens.Keys)
	if err != nil {
		return err
	}
	routes.NewOpenIDMetadataServer(p).Install(s.generic.Handler.GoRestfulContainer)
	return nil
}

func (s *Server) setServing(c *genericapiserver.Config, cfg Config) error {
	names, ips, err := subjects(cfg)
	if err != nil {
		return err
	}
	pair, err := s.pki.APIServing(names, ips)
	if err != nil {
		return err
	}
	cert, err := dynamiccertificates.NewStaticCertKeyContent("serving", pair.Cert, pair.Key)
	if err != nil {
		return err
	}
	clients, err := dynamiccertificates.NewStaticCAContent("clients", s.pki.CA())
	if err != nil {
		return err
	}
	c.SecureServing = &genericapiserver.SecureServingInfo{Listener: s.listener, Cert: cert, ClientCA: clients}
	// A wildcard is no address that others could use.
	addr := s.listener.Addr().(*net.TCPAddr)
	public := addr.IP
	if public.IsUnspecified() {
		public = cfg.PublicIP
	}
	if public == nil {
		public = net.IPv4(127, 0, 0, 1) // a machine without a network
	}
	c.ExternalAddress = net.JoinHostPort(public.String(), strconv.Itoa(addr.Port))
	return nil
}

// subjects is whom the serving certificate is for: whatever this machine is called and reached by at this moment.
func subjects(cfg Config) ([]string, []net.IP, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot tell this machine's name: %w", err)
	}
	names := append([]string{"localhost", hostname, "kubernetes.default.svc"}, cfg.Hostnames...)
	slices.Sort(names)

	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list this machine's addresses: %w", err)
	}
	ips := append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, cfg.IPs...)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	for i := range ips {
		ips[i] = ips[i].To16()
	}
	slices.SortFunc(ips, func(a, b net.IP) int { return bytes.Compare(a, b) })
	return slices.Compact(names), slices.CompactFunc(ips, net.IP.Equal), nil
}

func (s *Server) addHealthChecks(ctx context.Context, c *genericapiserver.Config) error {
	etcd, err := factory.CreateHealthCheck(s.options.factory.StorageConfig, ctx.Done())
	if err != nil {
		return err
	}
	c.AddHealthChecks(healthz.NamedCheck("etcd", func(*http.Request) error { return etcd() }))
	c.AddReadyzChecks(healthz.NamedCheck("boot", s.checkReady))
	return nil
}
