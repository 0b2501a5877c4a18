// Package daemon wires peapod together: datastore, API server, scheduler, controllers and agent in one
// process. It is the only package that imports them all.
//
// Invariants: a part that fails ends the daemon, with its error; the end of the daemon leaves every Pod running.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"peapod.dev/peapod/internal/agent"
	"peapod.dev/peapod/internal/agent/node"
	"peapod.dev/peapod/internal/apiserver"
	"peapod.dev/peapod/internal/controllers"
	"peapod.dev/peapod/internal/datastore"
	"peapod.dev/peapod/internal/engine"
	"peapod.dev/peapod/internal/scheduler"
	"peapod.dev/peapod/internal/version"
)

// Up is what Run tells once the daemon is of use.
type Up struct {
	NodeName   string // empty without an agent
	Address    string // of the API server
	Kubeconfig string
}

// Run brings everything up, calls ready once (when the node is Ready, or without an agent when the API is),
// and returns when ctx ends or a part fails.
func Run(ctx context.Context, cfg Config, ready func(Up)) (err error) {
	if err := cfg.complete(); err != nil {
		return err
	}
	undo, err := openRunDir(cfg.RunDir)
	if err != nil {
		return err
	}
	store, err := datastore.Start(ctx, datastore.Config{
		Dir: cfg.DataDir, RunDir: cfg.RunDir, Servers: cfg.EtcdServers,
		CertFile: cfg.EtcdCert, KeyFile: cfg.EtcdKey, CAFile: cfg.EtcdCA, Log: cfg.Log,
	})
	if err != nil {
		return errors.Join(err, undo()) // no folder is ours: `down` would not find the run folder
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := cfg.remember(); err != nil {
		return errors.Join(err, store.Close(), undo())
	}

	// The engine opens while the API server starts: neither needs the other.
	var eng *engine.Engine
	var server *apiserver.Server
	opening, openCtx := errgroup.WithContext(ctx)
	if !cfg.NoAgent {
		opening.Go(func() (err error) {
			eng, err = engine.New(openCtx, engineConfig(cfg.DataDir, cfg.RunDir, cfg.Runtime, cfg))
			return err
		})
	}
	opening.Go(func() (err error) {
		server, err = apiserver.New(ctx, apiserver.Config{
			Listen: cfg.Listen, PKIDir: filepath.Join(cfg.DataDir, "pki"), Transport: store.Transport(),
			Hostnames: []string{cfg.NodeName}, PublicIP: node.ChooseIP(), Version: version.KubernetesVersion + "+peapod." + version.Version, Log: cfg.Log,
		})
		return err
	})
	err = opening.Wait()
	if eng != nil {
		defer func() { err = errors.Join(err, eng.Close()) }()
	}
	if err != nil {
		if server != nil { // what it has opened, its Run closes
			stopped, stop := context.WithCancel(context.Background())
			stop()
			err = errors.Join(err, server.Run(stopped))
		}
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		select {
		case err := <-store.Failed():
			return fmt.Errorf("the datastore failed: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-server.Ready():
		}
		return serve(ctx, g, cfg, server, eng, ready)
	})
	return g.Wait()
}

// serve starts what needs the API: scheduler, controllers, agent. It returns when ctx ends.
func serve(ctx context.Context, g *errgroup.Group, cfg Config, server *apiserver.Server, eng *engine.Engine, ready func(Up)) error {
	up := Up{Address: server.Address(), Kubeconfig: filepath.Join(cfg.DataDir, "kubeconfig")}
	if err := writeKubeconfigs(cfg, server); err != nil {
		return err
	}
	config := unlimited(server.LoopbackConfig())
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	shared := server.Informers()
	sched := scheduler.New(scheduler.Config{Client: client, Informers: shared, Log: cfg.Log})
	g.Go(func() error { return sched.Run(ctx) })
	g.Go(func() error {
		return controllers.Run(ctx, controllers.Config{
			Client: client, Metadata: meta, Informers: shared, RootCA: server.CA(), ClusterCIDR: cfg.PodCIDR,
			NodeMonitorGracePeriod: cfg.NodeMonitorGracePeriod, Log: cfg.Log,
		})
	})
	if cfg.NoAgent {
		ready(up)
		keepSmall(ctx, cfg.Log)
		return nil
	}
	nodeAgent, err := newAgent(cfg, server, eng)
	if err != nil {
		return err
	}
	g.Go(func() error { return nodeAgent.Run(ctx) })
	select {
	case <-ctx.Done():
	case <-nodeAgent.Ready():
		up.NodeName = cfg.NodeName
		ready(up)
	}
	keepSmall(ctx, cfg.Log)
	return nil
}

func newAgent(cfg Config, server *apiserver.Server, eng *engine.Engine) (*agent.Agent, error) {
	client, err := kubernetes.NewForConfig(unlimited(server.NodeConfig(cfg.NodeName)))
	if err != nil {
		return nil, err
	}
	certificate, err := server.KubeletServing(cfg.NodeName, addresses())
	if err != nil {
		return nil, err
	}
	return agent.New(agent.Config{
		NodeName: cfg.NodeName, Labels: cfg.NodeLabels, PodCIDR: cfg.nodeCIDR(), DataDir: cfg.DataDir,
		APIServer: server.PublicAddress(), CgroupRoot: cgroupRoot(cfg.DataDir), Listen: cfg.KubeletListen, Client: client, Engine: eng,
		LeaseDuration: cfg.LeaseDuration, MaxRestartPeriod: cfg.MaxRestartPeriod, MaxPods: cfg.MaxPods,
		LogMaxSize: cfg.LogMaxSize, LogMaxFiles: cfg.LogMaxFiles, Log: cfg.Log,
		Certificate: certificate, ClientCAs: server.ClientCAs(), Streams: eng.Streams(),
	})
}

// addresses are all of this machine's, for certificates.
func addresses() []net.IP {
	var out []net.IP
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil // a certificate without them still has the node's name
	}
	for _, a := range nets {
		if n, ok := a.(*net.IPNet); ok {
			out = append(out, n.IP)
		}
	}
	return out
}

// unlimited lifts the client's rate limit: the peer is this process, whose fairness queues protect it.
func unlimited(c *rest.Config) *rest.Config {
	c.QPS = -1
	return c
}

func writeKubeconfigs(cfg Config, server *apiserver.Server) error {
	_, port, err := net.SplitHostPort(server.Address())
	if err != nil {
		return err
	}
	data, err := server.AdminKubeconfig("https://" + net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(cfg.DataDir, "kubeconfig"), cfg.Kubeconfig} {
		if path == "" {
			continue
		}
		if err := replaceFile(path, data); err != nil {
			return fmt.Errorf("cannot write the kubeconfig: %w", err)
		}
	}
	return nil
}

// replaceFile writes a secret file so that a reader never sees half of it and nobody else sees it at all.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".peapod-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
