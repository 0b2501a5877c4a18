// Package controllers runs the control loops beside the scheduler: each brings one thing in the API in step with the others, in a
// folder of its own. They share the informers, and know nothing of each other.
package controllers

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"peapod.dev/peapod/internal/controllers/disruption"
	"peapod.dev/peapod/internal/controllers/namespace"
	"peapod.dev/peapod/internal/controllers/nodeipam"
	"peapod.dev/peapod/internal/controllers/nodelifecycle"
	"peapod.dev/peapod/internal/controllers/podgc"
	"peapod.dev/peapod/internal/controllers/resourcequota"
	"peapod.dev/peapod/internal/controllers/rootca"
	"peapod.dev/peapod/internal/controllers/serviceaccount"
	"peapod.dev/peapod/internal/controllers/tainteviction"
)

// Config is what the controllers need.
type Config struct {
	// Client and Metadata are clients of the same API server, with all rights and without a rate limit (QPS < 0).
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Informers is shared with others; Run starts those that it needs if nobody has.
	Informers informers.SharedInformerFactory
	// RootCA is the PEM certificate for kube-root-ca.crt.
	RootCA []byte
	// ClusterCIDR is split among the Nodes; if it is not valid, Nodes get no addresses from here.
	ClusterCIDR netip.Prefix
	// NodeMonitorGracePeriod is how long an agent may be silent before its Node is lost; zero means upstream's 50 s.
	NodeMonitorGracePeriod time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// runner is a controller.
type runner interface {
	Run(ctx context.Context, workers int) error
}

// Run runs all controllers until ctx ends or one cannot start, and returns when all have ended.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Metadata == nil {
		return errors.New("cannot run controllers without a metadata client")
	}
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&corev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	recorder := func(component string) record.EventRecorder {
		return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: component})
	}

	client, shared := cfg.Client, cfg.Informers
	served := client.Discovery().ServerPreferredNamespacedResources
	publish, certificates := rootca.New(client, shared.Core().V1().Namespaces(), cfg.RootCA, log)
	lifecycle, leases := nodelifecycle.New(client, shared, recorder(nodelifecycle.Component), cmp.Or(cfg.NodeMonitorGracePeriod, nodelifecycle.GracePeriod), log)

	group, grouped := errgroup.WithContext(ctx)
	start := func(workers int, r runner) { group.Go(func() error { return r.Run(grouped, workers) }) }
	start(4, serviceaccount.New(client, shared, log))
	start(4, publish)
	start(8, namespace.New(client, cfg.Metadata, served, shared, log))
	start(4, lifecycle)
	start(8, tainteviction.New(client, shared, recorder(tainteviction.Component), log))
	start(4, podgc.New(client, shared, log))
	start(2, resourcequota.New(client, cfg.Metadata, served, shared, log))
	start(2, disruption.New(client, shared, recorder(disruption.Component), log))
	if cfg.ClusterCIDR.IsValid() {
		// One worker: two must not look at the same free range.
		start(1, nodeipam.New(client, shared.Core().V1().Nodes(), cfg.ClusterCIDR, recorder("cidrAllocator"), log))
	}
	group.Go(func() error { certificates.RunWithContext(grouped); return nil })
	group.Go(func() error { leases.RunWithContext(grouped); return nil })
	// The informers are others' too: they do not end when a controller fails.
	shared.Start(ctx.Done())
	return group.Wait()
}
