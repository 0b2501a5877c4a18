// Package agent is the node agent: it registers this machine, watches the Pods that are bound to it, gives
// each to a Worker, and serves the kubelet API. It composes the packages below it and holds no rule of a
// Pod's life itself: those are in plan and status.
//
// Invariants: the agent meets the rest of peapod only through the Kubernetes API, and the engine only
// through CRI v1; stopping it leaves every container running.
package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"peapod.dev/peapod/internal/agent/containerlog"
	"peapod.dev/peapod/internal/agent/hook"
	"peapod.dev/peapod/internal/agent/kubeletapi"
	"peapod.dev/peapod/internal/agent/node"
	"peapod.dev/peapod/internal/agent/probe"
	"peapod.dev/peapod/internal/agent/volume"
	"peapod.dev/peapod/internal/agent/worker"
)

// Engine is CRI v1, called in process.
type Engine interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// Config is what an Agent needs. NodeName, DataDir, Client, Engine, Streams, Certificate and ClientCAs are required.
type Config struct {
	NodeName string
	Labels   map[string]string
	IP       net.IP // the node's address; nil: the one of the default route
	// PodCIDR is what the node's addresses are taken from; the engine has been told the same.
	PodCIDR netip.Prefix
	// APIServer is the host:port by which Pods reach the API; they get it in their environment.
	APIServer string
	// CgroupRoot is the control group below which all Pods are.
	CgroupRoot string
	DataDir    string
	// Listen is the address of the kubelet API; when its port is taken, any free one is used.
	Listen string
	// Certificate is the kubelet API's; ClientCAs sign those of its clients.
	Certificate tls.Certificate
	ClientCAs   *x509.CertPool
	Client      kubernetes.Interface
	Engine      Engine
	// Streams carries exec, attach and port-forward to the engine's containers.
	Streams       streaming.Runtime
	LeaseDuration time.Duration
	// MaxRestartPeriod is the longest back-off before a container is restarted (CrashLoopBackOff); zero means 300 s.
	MaxRestartPeriod time.Duration
	// MaxPods is how many Pods the node takes; 0 means 110, as for the kubelet.
	MaxPods int64
	// LogMaxSize, in bytes, and LogMaxFiles bound the logs of each container; see containerlog.Config.
	LogMaxSize  int64
	LogMaxFiles int
	Log         *slog.Logger
}

// Agent is one node's agent.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	worker    worker.Config
	workers   workers
	volumes   *volumes
	probes    *probe.Manager
	logs      *containerlog.Rotator
	events    record.EventRecorder
	broadcast record.EventBroadcaster
	node      *node.Node
	nodeCache atomic.Pointer[v1.Node]
	nodeIP    string
	machine   machine
	api       *kubeletapi.Server
	changes   changes
	ready     chan struct{}
}

// New makes an Agent; it opens the kubelet API's port but serves nothing before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.IP == nil {
		cfg.IP = node.ChooseIP()
	}
	a := &Agent{cfg: cfg, log: cfg.Log, nodeIP: cfg.IP.String(), ready: make(chan struct{})}
	a.workers = workers{agent: a, byUID: map[types.UID]*worker.Worker{}}
	var err error
	if a.api, err = a.openAPI(cfg.Certificate, cfg.ClientCAs); err != nil {
		return nil, err
	}
	a.broadcast = record.NewBroadcaster()
	a.events = a.broadcast.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	podCIDR := "" // left to a controller
	if cfg.PodCIDR.IsValid() {
		podCIDR = cfg.PodCIDR.String()
	}
	a.node, err = node.New(node.Config{
		Name: cfg.NodeName, IP: cfg.IP, Port: a.api.Port(), Labels: cfg.Labels,
		PodCIDR: podCIDR, DataDir: cfg.DataDir, Engine: cfg.Engine, Client: cfg.Client, Recorder: a.events,
		LeaseDuration: cfg.LeaseDuration, MaxPods: cfg.MaxPods, GetNode: a.getNode, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	vols, err := volume.New(volume.Config{
		Root: a.podsDir(), Client: cfg.Client, GetNode: a.getNode, Log: cfg.Log,
		Changed: func(uid types.UID) {
			if w := a.workers.get(uid); w != nil {
				w.Refresh()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	a.volumes = &volumes{Volumes: vols, root: a.podsDir(), ready: map[types.UID]map[string]volume.Volume{}}
	a.probes = probe.New(probe.Config{Engine: cfg.Engine, Recorder: a.events, Log: cfg.Log, OnResult: func(r probe.Result) {
		if w := a.workers.get(r.PodUID); w != nil {
			w.Poke()
		}
	}})
	a.logs, err = containerlog.New(containerlog.Config{Engine: cfg.Engine, MaxSize: cfg.LogMaxSize, MaxFiles: cfg.LogMaxFiles, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	a.worker = worker.Config{
		Engine: cfg.Engine, Volumes: a.volumes, Specs: &specs{a}, Probes: prober{a.probes},
		Hooks:  hook.New(hook.Config{Recorder: a.events, Log: cfg.Log}),
		Client: cfg.Client, Events: a.events, HostIPs: func() []string { return []string{a.nodeIP} },
		Credentials: a.credentials, MaxRestartPeriod: cfg.MaxRestartPeriod, PodDir: a.podDir, Log: cfg.Log,
	}
	a.machine = readMachine()
	return a, nil
}

// Ready is closed once the node is registered as Ready.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Run registers the node and runs its Pods until ctx ends. Containers are left running.
func (a *Agent) Run(ctx context.Context) error {
	defer a.volumes.Close()
	a.broadcast.StartRecordingToSink(newEventSink(a.cfg.Client))
	defer a.broadcast.Shutdown()
	g, ctx := errgroup.WithContext(ctx)
	a.workers.ctx = ctx
	registered, err := a.node.Register(ctx)
	if err != nil {
		return err
	}
	a.nodeCache.Store(registered)
	close(a.ready)
	g.Go(func() error { a.node.Run(ctx); return nil })
	g.Go(func() error { a.watchNode(ctx); return nil })
	g.Go(func() error { a.probes.Run(ctx); return nil })
	g.Go(func() error { return a.logs.Run(ctx) })
	g.Go(func() error {
		err := a.followEngine(ctx)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("cannot follow the engine's events: %w", err)
	})
	g.Go(func() error { return a.api.Run(ctx) })
	g.Go(func() error { return a.watchPods(ctx) })
	err = g.Wait()
	a.workers.wg.Wait()
	return err
}

// watchNode keeps this node's object at hand until ctx ends.
func (a *Agent) watchNode(ctx context.Context) {
	list := cache.NewListWatchFromClient(a.cfg.Client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll,
		fields.OneTermEqualSelector("metadata.name", a.cfg.NodeName))
	keep := func(o any) {
		if n, ok := o.(*v1.Node); ok {
			a.nodeCache.Store(n)
			a.node.Sync()
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: &v1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: keep, UpdateFunc: func(_, o any) { keep(o) }},
	})
	informer.RunWithContext(ctx)
}

func (a *Agent) getNode() (*v1.Node, error) {
	if n := a.nodeCache.Load(); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("node %q is not registered yet", a.cfg.NodeName)
}

func (a *Agent) podsDir() string             { return filepath.Join(a.cfg.DataDir, "pods") }
func (a *Agent) podDir(uid types.UID) string { return filepath.Join(a.podsDir(), string(uid)) }
func (a *Agent) logsDir() string             { return filepath.Join(a.cfg.DataDir, "log", "pods") }
func (a *Agent) podLogs(pod *v1.Pod) string {
	return filepath.Join(a.logsDir(), fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

// removePodDirs removes the Pod's own state and logs, once nothing of it is left in the engine. Volumes are
// taken down first, whatever they are: nothing is deleted through a mount.
func (a *Agent) removePodDirs(ctx context.Context, uid types.UID, logs string) {
	if err := a.volumes.Teardown(ctx, uid); err != nil {
		a.log.Error("cannot remove the folder of a pod that is gone", "uid", uid, "error", err)
	}
	if logs == "" {
		return
	}
	if err := os.RemoveAll(logs); err != nil {
		a.log.Error("cannot remove the logs of a pod that is gone", "path", logs, "error", err)
	}
}

// removeStrayDirs removes the folders and logs of Pods that neither the API nor the engine knows.
func (a *Agent) removeStrayDirs(ctx context.Context) error {
	entries, err := os.ReadDir(a.podsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if uid := types.UID(e.Name()); a.workers.get(uid) == nil {
			a.removePodDirs(ctx, uid, "")
		}
	}
	entries, err = os.ReadDir(a.logsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries { // NAMESPACE_NAME_UID, none of which has a "_"
		uid := types.UID(e.Name()[strings.LastIndex(e.Name(), "_")+1:])
		if a.workers.get(uid) == nil {
			a.removePodDirs(ctx, uid, filepath.Join(a.logsDir(), e.Name()))
		}
	}
	return nil
}
