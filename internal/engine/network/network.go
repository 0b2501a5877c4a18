// Package network gives each Pod sandbox an address on this node's bridge, and its host ports.
//
// It works in process over netlink and nftables: no program is run. Where the CNI configuration folder holds a
// configuration, the plugins named there do the work instead, through libcni, behind the same interface.
//
// What the built-in network has given away is in one small file for each sandbox, written before the kernel is touched,
// so that a daemon killed at any instant finds at its next start all that it has to take back (Reconcile).
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
)

// Config describes the network of one node.
type Config struct {
	Bridge   string       // link name, at most 15 bytes
	Subnet   netip.Prefix // this node's part of the Pod CIDR, IPv4; its first address is the bridge's
	PodCIDR  netip.Prefix // of the whole cluster, reached without masquerade; default Subnet
	StateDir string       // where allocated addresses are remembered; survives the daemon
	Table    string       // nftables table, one for each instance
	// CNIConfDir and CNIBinDirs default to /etc/cni/net.d and /opt/cni/bin, /usr/lib/cni.
	CNIConfDir string
	CNIBinDirs []string
	// Removing opens what is there for Reconcile, Teardown and Destroy alone: nothing is made, and it does not matter who
	// else has the Subnet.
	Removing bool
	Log      *slog.Logger
}

// PortMapping is one hostPort.
type PortMapping struct {
	HostIP        string `json:"hostIP,omitempty"` // empty, 0.0.0.0 or :: is every local address
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"` // "TCP", "UDP" or "SCTP"; empty: TCP
}

// Pod is a sandbox to be attached.
type Pod struct {
	SandboxID string
	NetNS     string // path of the pinned network namespace
	Ports     []PortMapping
	// For CNI plugins (K8S_POD_NAME and others); the built-in network does not need them.
	Name, Namespace, UID string
}

// Result is what a Pod got.
type Result struct {
	IPs []netip.Addr
}

// driver is the built-in network or CNI.
type driver interface {
	setup(ctx context.Context, p Pod) (Result, error)
	connected(sandboxID string) bool
	teardown(ctx context.Context, sandboxID, netnsPath string) error
	reconcile(ctx context.Context, live map[string]bool) error
	destroy(ctx context.Context) error
}

// Network attaches sandboxes. Safe for concurrent use; calls for one sandbox must not overlap.
type Network struct{ driver driver }

// New makes or adopts the bridge and the nftables table. It fails when Subnet overlaps a network of another link.
// What it made before it fails is gone again. Without nftables in the kernel Pods have addresses but neither masquerade nor host ports; one log line says so.
func New(c Config) (*Network, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.CNIConfDir = cmp.Or(c.CNIConfDir, "/etc/cni/net.d")
	if c.CNIBinDirs == nil {
		c.CNIBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni"}
	}
	plugins, err := loadCNI(c)
	if err != nil {
		return nil, err
	}
	if plugins != nil {
		c.Log.Info("CNI plugins connect the Pods", "network", plugins.list.Name, "folder", c.CNIConfDir)
		return &Network{driver: plugins}, nil
	}
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = c.Subnet
	}
	b, err := newBridge(c)
	if err != nil {
		return nil, fmt.Errorf("cannot make the Pod network: %w", err)
	}
	return &Network{driver: b}, nil
}

// Setup attaches the Pod: loopback up, address, default route, host ports. A second Setup of a sandbox makes its link
// anew with the same address. After an error the caller calls Teardown.
func (n *Network) Setup(ctx context.Context, p Pod) (Result, error) {
	if p.SandboxID == "" || p.NetNS == "" {
		return Result{}, errors.New("cannot connect a sandbox without ID or network namespace")
	}
	r, err := n.driver.setup(ctx, p)
	if err != nil {
		return Result{}, fmt.Errorf("cannot connect sandbox %s to the network: %w", p.SandboxID, err)
	}
	return r, nil
}

// Connected tells whether the sandbox has an address. Plugins are not asked: they remember for themselves.
func (n *Network) Connected(sandboxID string) bool { return n.driver.connected(sandboxID) }

// Teardown undoes Setup. Idempotent; the namespace may be gone. If it is there, the caller drops its last reference next,
// and the Pod's link goes with it.
func (n *Network) Teardown(ctx context.Context, sandboxID, netnsPath string) error {
	if err := n.driver.teardown(ctx, sandboxID, netnsPath); err != nil {
		return fmt.Errorf("cannot disconnect sandbox %s from the network: %w", sandboxID, err)
	}
	return nil
}

// Reconcile takes back what belongs to no sandbox in live, and puts back the rules of those that are. It is called
// once, before the first Setup.
func (n *Network) Reconcile(ctx context.Context, live []string) error {
	set := make(map[string]bool, len(live))
	for _, id := range live {
		set[id] = true
	}
	if err := n.driver.reconcile(ctx, set); err != nil {
		return fmt.Errorf("cannot clear leftovers of the Pod network: %w", err)
	}
	return nil
}

// Destroy removes the bridge, its veths, the table and the state. Idempotent; the Network is of no use afterwards.
func (n *Network) Destroy(ctx context.Context) error {
	if err := n.driver.destroy(ctx); err != nil {
		return fmt.Errorf("cannot remove the Pod network: %w", err)
	}
	return nil
}
