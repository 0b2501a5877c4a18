// Package node registers this machine as a Node and keeps its status and lease fresh.
//
// The object, conditions, events and periods are the kubelet's (pkg/kubelet/kubelet_node_status.go,
// pkg/kubelet/nodestatus and pkg/kubelet/util/nodelease.go of Kubernetes 1.37).
//
// Invariants:
//   - An object that exists is adopted. Labels, taints, annotations, conditions and resources that
//     somebody else put there stay.
//   - A new node is Ready with the one request that creates it, if the runtime is.
//   - The status is looked at every StatusCheck and whenever Sync is called, and written when it has
//     changed, else every StatusReport.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apimachinery/lease"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// Engine is the part of the CRI services that the node's status is made from.
type Engine interface {
	Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error)
	Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error)
	ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error)
}

// Config is what a Node needs. Durations that are zero get the kubelet's defaults.
type Config struct {
	Name     string
	Hostname string // label and address; default Name
	IP       net.IP // InternalIP; default ChooseIP()
	Port     int32  // of the kubelet API
	Labels   map[string]string
	Taints   []v1.Taint // of a node that does not exist yet
	PodCIDR  string     // set if the node has none; "" leaves it to a controller
	DataDir  string     // the file system whose size is the ephemeral storage
	MaxPods  int64      // default 110

	// DeclaredFeatures are published as they are, for an API server that asks for them.
	DeclaredFeatures []string

	Engine   Engine
	Client   kubernetes.Interface
	Recorder record.EventRecorder
	// GetNode returns this node as a cache has it, so that a status is compared with what the API
	// server really holds. Nil means to ask the API server.
	GetNode func() (*v1.Node, error)

	StatusCheck   time.Duration // default 10 s
	StatusReport  time.Duration // default 5 min
	LeaseRenewal  time.Duration // default 10 s
	LeaseDuration time.Duration // default 40 s

	Root string       // where /proc, /sys and /etc are found; default "/"; for tests
	Log  *slog.Logger // nil means slog.Default()
}

// Node is this machine's node. Register comes first, then Run; Sync may be called at any time.
type Node struct {
	cfg     Config
	log     *slog.Logger
	machine machine
	wake    chan struct{}

	// The rest belongs to Register, then to Run's status loop.
	last       *v1.Node // as the API server last returned it
	reported   time.Time
	images     []v1.ContainerImage
	underSince map[v1.NodeConditionType]time.Time // when a pressure was last seen
	events     []event
}

type event struct{ kind, reason, message string }

// New reads the facts about the machine that do not change. It fails when /proc cannot be read.
func New(cfg Config) (*Node, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Hostname == "" {
		cfg.Hostname = cfg.Name
	}
	if cfg.IP == nil {
		cfg.IP = ChooseIP()
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
	for d, preset := range map[*time.Duration]time.Duration{
		&cfg.StatusCheck: 10 * time.Second, &cfg.StatusReport: 5 * time.Minute,
		&cfg.LeaseRenewal: 10 * time.Second, &cfg.LeaseDuration: 40 * time.Second,
	} {
		if *d == 0 {
			*d = preset
		}
	}
	m, err := readMachine(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the facts about this machine: %w", err)
	}
	return &Node{cfg: cfg, log: cfg.Log, machine: m, wake: make(chan struct{}, 1), underSince: map[v1.NodeConditionType]time.Time{}}, nil
}

// Register creates the node, or adopts the one that is there, and returns it. It tries again, with
// growing pauses of up to seven seconds, until it succeeds or ctx ends.
func (n *Node) Register(ctx context.Context) (*v1.Node, error) {
	const first, longest = 100 * time.Millisecond, 7 * time.Second
	for pause := first; ; pause = min(2*pause, longest) {
		err := n.register(ctx)
		if err == nil {
			n.event(v1.EventTypeNormal, "Starting", "Starting kubelet.")
			n.emit()
			return n.last, nil
		}
		n.events = nil
		n.log.Warn("Cannot register the node yet", "node", n.cfg.Name, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("cannot register node %q: %w", n.cfg.Name, errors.Join(ctx.Err(), err))
		case <-timer.C:
		}
	}
}

func (n *Node) register(ctx context.Context) error {
	nodes := n.cfg.Client.CoreV1().Nodes()
	fresh := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: n.labels()},
		Spec:       v1.NodeSpec{Taints: n.cfg.Taints},
	}
	if n.cfg.PodCIDR != "" {
		fresh.Spec.PodCIDR, fresh.Spec.PodCIDRs = n.cfg.PodCIDR, []string{n.cfg.PodCIDR}
	}
	n.fill(ctx, fresh)
	created, err := nodes.Create(ctx, fresh, metav1.CreateOptions{})
	if err == nil {
		n.last, n.reported = created, time.Now()
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	existing, err := nodes.Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if n.cfg.PodCIDR != "" && existing.Spec.PodCIDR == "" {
		patch := fmt.Appendf(nil, `{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, n.cfg.PodCIDR, n.cfg.PodCIDR)
		if existing, err = nodes.Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	n.events = nil // those about the object that was not created
	adopted := existing.DeepCopy()
	if adopted.Labels == nil {
		adopted.Labels = map[string]string{}
	}
	maps.Copy(adopted.Labels, n.labels())
	if boot := existing.Status.NodeInfo.BootID; boot != "" && boot != n.machine.bootID {
		n.event(v1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", n.cfg.Name, n.machine.bootID))
	}
	n.fill(ctx, adopted)
	return n.patch(ctx, existing, adopted)
}

// labels are those every node has, overridden by the configured ones.
func (n *Node) labels() map[string]string {
	labels := map[string]string{
		v1.LabelHostname:          n.cfg.Hostname,
		v1.LabelOSStable:          n.machine.os,
		v1.LabelArchStable:        n.machine.arch,
		"beta.kubernetes.io/os":   n.machine.os,
		"beta.kubernetes.io/arch": n.machine.arch,
	}
	maps.Copy(labels, n.cfg.Labels)
	return labels
}

// Run renews the lease and keeps the status fresh until ctx ends. Neither is removed then: the node
// may come back before anybody misses it.
func (n *Node) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	controller := lease.NewController(clock.RealClock{}, n.cfg.Client, n.cfg.Name, int32(n.cfg.LeaseDuration.Seconds()),
		nil, n.cfg.LeaseRenewal, n.cfg.Name, v1.NamespaceNodeLease, n.own(n.last.UID))
	wg.Go(func() { controller.Run(ctx) })

	ticker := time.NewTicker(n.cfg.StatusCheck)
	defer ticker.Stop()
	n.refreshImages(ctx)
	for {
		if err := n.sync(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("Cannot update the node's status, will try again", "node", n.cfg.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-n.wake:
			n.refreshImages(ctx)
		}
	}
}

// own makes the lease go with the node.
func (n *Node) own(uid types.UID) lease.ProcessLeaseFunc {
	return func(l *coordinationv1.Lease) error {
		if len(l.OwnerReferences) == 0 {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: uid}}
		}
		return nil
	}
}

// Sync asks for a look at the status now: the engine's health or its images have changed, or somebody
// has changed the node. It does not block.
func (n *Node) Sync() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// sync writes the status if that is due.
func (n *Node) sync(ctx context.Context) error {
	base, err := n.current(ctx)
	if err != nil {
		return err
	}
	if base.Spec.Unschedulable != n.last.Spec.Unschedulable {
		reason := "NodeSchedulable"
		if base.Spec.Unschedulable {
			reason = "NodeNotSchedulable"
		}
		n.statusEvent(reason)
	}
	n.last = base
	next := base.DeepCopy()
	n.fill(ctx, next)
	if !changed(base, next) && time.Since(n.reported) < n.cfg.StatusReport {
		n.emit()
		return nil
	}
	if err := n.patch(ctx, base, next); err != nil {
		n.events = nil // the next try finds the same changes
		return err
	}
	n.emit()
	return nil
}

// current is the newer of what the cache has and what the last write returned.
func (n *Node) current(ctx context.Context) (*v1.Node, error) {
	if n.cfg.GetNode == nil {
		return n.cfg.Client.CoreV1().Nodes().Get(ctx, n.cfg.Name, metav1.GetOptions{})
	}
	cached, err := n.cfg.GetNode()
	if err != nil {
		return nil, err
	}
	if order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, n.last.ResourceVersion); err == nil && order < 0 && cached.UID == n.last.UID {
		return n.last, nil
	}
	return cached, nil
}

func (n *Node) event(kind, reason, message string) {
	n.events = append(n.events, event{kind, reason, message})
}

func (n *Node) statusEvent(reason string) {
	n.event(v1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", n.cfg.Name, reason))
}

// emit hands over the events collected; the recorder sends them in the background.
func (n *Node) emit() {
	if n.cfg.Recorder != nil {
		ref := &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: n.last.UID}
		for _, e := range n.events {
			n.cfg.Recorder.Event(ref, e.kind, e.reason, e.message)
		}
	}
	n.events = nil
}
