package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/fault"
)

// bridge is the built-in network: one link that all Pods of the node are plugged into.
type bridge struct {
	name   string
	index  int // of the link; 0: there is none
	subnet netip.Prefix
	leases *leases
	rules  *rules // nil: this kernel has no nftables
	log    *slog.Logger
}

func newBridge(c Config) (_ *bridge, err error) {
	if !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 30 {
		return nil, fmt.Errorf("subnet %s: need an IPv4 subnet with room for two addresses", c.Subnet)
	}
	c.Subnet = c.Subnet.Masked()
	if !c.Removing {
		if err := noConflict(c.Bridge, c.Subnet); err != nil {
			return nil, err
		}
	}
	leases, err := openLeases(c.StateDir, c.Subnet)
	if err != nil {
		return nil, err
	}
	b := &bridge{name: c.Bridge, subnet: c.Subnet, leases: leases, log: c.Log}
	b.rules = &rules{table: c.Table, bridge: c.Bridge, subnet: c.Subnet, podCIDR: c.PodCIDR.Masked()}
	if _, err := b.link(); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", c.Bridge, err)
	}
	if c.Removing {
		if !b.rules.installed() {
			b.rules = nil
		}
		return b, nil
	}
	if b.index == 0 {
		defer func() {
			if err != nil {
				err = errors.Join(err, b.deleteLink())
			}
		}()
	}
	if err := b.makeLink(); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", c.Bridge, err)
	}
	localnet := "1" // lets a host port answer on 127.0.0.1
	if err := b.rules.install(); errors.Is(err, errNoNFTables) {
		c.Log.Warn("Pods have neither masquerade to the outside nor host ports", "err", err)
		// Without the rule that guards it, the node's loopback would be open to Pods.
		b.rules, localnet = nil, "0"
	} else if err != nil {
		return nil, fmt.Errorf("nftables table %s: %w", c.Table, err)
	}
	return b, sysctl("net/ipv4/conf/"+c.Bridge+"/route_localnet", localnet)
}

// noConflict refuses a subnet of which another link has a part. A wider route elsewhere is fine (10.0.0.0/8 to a
// router: ours is more specific), unless the link is itself in that network.
func noConflict(bridge string, subnet netip.Prefix) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		dst, ok := prefix(r.Dst)
		if !ok || dst.Bits() == 0 || !dst.Overlaps(subnet) || dst.Bits() < subnet.Bits() && r.Protocol != unix.RTPROT_KERNEL {
			continue
		}
		name := "(none)"
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		if name != bridge {
			return fmt.Errorf("subnet %s overlaps %s of link %s: choose another with --pod-cidr", subnet, dst, name)
		}
	}
	return nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones).Masked(), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// mac is derived from the address: whoever remembers an address' former owner reaches the new one.
func mac(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// link finds the bridge and notes its index; without one, both are zero.
func (b *bridge) link() (netlink.Link, error) {
	link, err := netlink.LinkByName(b.name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		b.index = 0
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("there is a link of this name that is a %s", link.Type())
	}
	b.index = link.Attrs().Index
	return link, nil
}

// deleteLink deletes the bridge, if there is one.
func (b *bridge) deleteLink() error {
	if b.index == 0 {
		return nil
	}
	return deleteLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: b.index, Name: b.name}})
}

// makeLink makes the bridge, or makes the one that is there right.
func (b *bridge) makeLink() error {
	ip := gateway(b.subnet)
	// A fixed MAC: a bridge otherwise takes on its lowest port's, which changes as Pods come and go.
	want := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.name, HardwareAddr: mac(ip)}}
	if err := netlink.LinkAdd(want); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	link, err := b.link()
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, mac(ip)); err != nil {
		return err
	}
	address := netip.PrefixFrom(ip, b.subnet.Bits())
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have { // of a former --pod-cidr
		if a.IPNet.String() != address.String() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return err
	}
	noIPv6(b.name)
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return sysctl("net/ipv4/ip_forward", "1")
}

// noIPv6 keeps a link of the node from taking an IPv6 address. A kernel without IPv6 has nothing to be kept from.
func noIPv6(link string) { _ = sysctl("net/ipv6/conf/"+link+"/disable_ipv6", "1") }

// sysctl writes only what differs: /proc/sys may be read-only where it is right already.
func sysctl(name, value string) error {
	file := filepath.Join("/proc/sys", name)
	if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	return os.WriteFile(file, []byte(value), 0o644)
}

func (b *bridge) setup(_ context.Context, p Pod) (Result, error) {
	one, err := b.leases.take(p.SandboxID, p.Ports)
	if err != nil {
		return Result{}, err
	}
	fault.Point("address taken")
	if err := b.plug(p.SandboxID, p.NetNS, one.IP); err != nil {
		return Result{}, err
	}
	fault.Point("cable plugged")
	if b.rules != nil {
		if err := b.rules.addPorts(one); err != nil {
			return Result{}, err
		}
	} else if len(p.Ports) > 0 {
		b.log.Warn("no nftables: host ports are off", "sandbox", p.SandboxID)
	}
	return Result{IPs: []netip.Addr{one.IP}}, nil
}

func (b *bridge) connected(id string) bool { return b.leases.get(id).IP.IsValid() }

// plug makes the cable: a veth with one end in the bridge and the other, eth0, in the namespace, which is entered once.
func (b *bridge) plug(id, path string, ip netip.Addr) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	cable := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: vethName(id), MasterIndex: b.index, Flags: net.FlagUp},
		PeerName:         "eth0",
		PeerHardwareAddr: mac(ip),
		PeerNamespace:    netlink.NsFd(int(ns)),
	}
	err = netlink.LinkAdd(cable)
	if errors.Is(err, unix.EEXIST) { // of a Setup that did not come to its end
		if err = unplug(id); err == nil {
			err = netlink.LinkAdd(cable)
		}
	}
	if err != nil {
		return fmt.Errorf("veth %s: %w", cable.Name, err)
	}
	noIPv6(cable.Name)
	// A Pod that reaches itself by a host port gets its packets back through the port they came from.
	if err := netlink.LinkSetHairpin(cable, true); err != nil {
		return fmt.Errorf("veth %s: %w", cable.Name, err)
	}

	in, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer in.Close()
	if err := loopbackUp(in); err != nil {
		return err
	}
	eth0, err := in.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := in.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, b.subnet.Bits()))}); err != nil {
		return fmt.Errorf("address %s: %w", ip, err)
	}
	if err := in.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway(b.subnet).AsSlice()}
	if err := in.RouteAdd(route); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// loopbackUp brings up lo, which is the first link of every namespace.
func loopbackUp(in *netlink.Handle) error {
	if err := in.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// unplug deletes both ends.
func unplug(id string) error {
	link, err := netlink.LinkByName(vethName(id))
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	} else if err != nil {
		return err
	}
	return deleteLink(link)
}

// deleteLink also succeeds for one that is gone: a veth goes by itself with its Pod's namespace.
func deleteLink(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("link %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// teardown leaves the cable to the end of the namespace, if there is still one. Deleting it here would make every other
// Pod wait: the kernel holds its one lock over links for a grace period, some 30 ms each, but takes down namespaces
// aside and many at a time.
func (b *bridge) teardown(_ context.Context, id, path string) error {
	if b.rules != nil {
		if err := b.rules.deletePorts(b.leases.get(id)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(path); path == "" || err != nil {
		if err := unplug(id); err != nil {
			return err
		}
	}
	return b.leases.release(id)
}

func (b *bridge) reconcile(ctx context.Context, live map[string]bool) error {
	var errs []error
	known := map[string]bool{}
	for id := range b.leases.all() {
		if live[id] {
			known[vethName(id)] = true
		} else {
			errs = append(errs, b.teardown(ctx, id, ""))
		}
	}
	cables, err := b.cables()
	errs = append(errs, err)
	for _, cable := range cables {
		if !known[cable.Attrs().Name] {
			errs = append(errs, deleteLink(cable))
		}
	}
	if b.rules != nil {
		errs = append(errs, b.rules.replacePorts(b.leases.all()))
	}
	return errors.Join(errs...)
}

// cables are the veths that are plugged into the bridge.
func (b *bridge) cables() ([]netlink.Link, error) {
	if b.index == 0 {
		return nil, nil
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var ours []netlink.Link
	for _, l := range all {
		if l.Attrs().MasterIndex == b.index && l.Type() == "veth" {
			ours = append(ours, l)
		}
	}
	return ours, nil
}

func (b *bridge) destroy(context.Context) error {
	cables, err := b.cables()
	errs := []error{err}
	for _, cable := range cables {
		errs = append(errs, deleteLink(cable))
	}
	errs = append(errs, b.deleteLink())
	if b.rules != nil {
		errs = append(errs, b.rules.remove())
	}
	if err := os.RemoveAll(b.leases.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
