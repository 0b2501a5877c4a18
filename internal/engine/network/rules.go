package network

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vethName is the name of a sandbox' link on the node. Link names have at most 15 bytes.
func vethName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "veth" + hex.EncodeToString(sum[:])[:11]
}

// rules are one nftables table of the node. In nft's own language:
//
//	table ip TABLE {
//		map anyaddr { type inet_proto . inet_service : ipv4_addr . inet_service }               # host ports
//		map oneaddr { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }   # with a hostIP
//		chain guard { type filter hook prerouting priority raw
//			iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//		chain prerouting { type nat hook prerouting priority dstnat
//			dnat ip to ip daddr . meta l4proto . th dport map @oneaddr
//			fib daddr type local dnat ip to meta l4proto . th dport map @anyaddr }
//		chain output { type nat hook output priority dstnat; … the same two }
//		chain postrouting { type nat hook postrouting priority srcnat
//			ip saddr SUBNET ip daddr != PODCIDR oifname != BRIDGE masquerade       # to the outside
//			ip saddr SUBNET oifname BRIDGE ct status dnat masquerade               # a Pod to its neighbour's host port
//			ip saddr 127.0.0.0/8 oifname BRIDGE masquerade }                       # the node to 127.0.0.1:HOSTPORT
//	}
//
// The chains never change; a host port is an element of a map. So every change is atomic and of constant cost.
type rules struct {
	table, bridge   string
	subnet, podCIDR netip.Prefix
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func (r *rules) nft() *nftables.Table {
	return &nftables.Table{Name: r.table, Family: nftables.TableFamilyIPv4}
}

func (r *rules) anyAddr() *nftables.Set {
	return r.portMap("anyaddr", nftables.TypeInetProto, nftables.TypeInetService)
}

func (r *rules) oneAddr() *nftables.Set {
	return r.portMap("oneaddr", nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
}

func (r *rules) portMap(name string, key ...nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{
		Table: r.nft(), Name: name, IsMap: true, KeyType: nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

var errNoNFTables = errors.New("this kernel has no nftables for IPv4, or a part of it is missing")

// install makes the table, or replaces the rules of the one that is there in one step and leaves its maps.
// errors.Is(err, errNoNFTables) when the kernel cannot do it.
func (r *rules) install() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(r.nft())
	for _, set := range []*nftables.Set{r.anyAddr(), r.oneAddr()} {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, all ...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})
		c.FlushChain(ch)
		for _, exprs := range all {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: exprs})
		}
	}
	dnat := [][]expr.Any{
		join(address(destination, 8), portKey(9), portLookup("oneaddr")),
		join(toLocal(), portKey(8), portLookup("anyaddr")),
	}
	masquerade := []expr.Any{&expr.Masq{}}
	chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		join(link(expr.MetaKeyIIFNAME, r.bridge, expr.CmpOpEq), within(destination, loopback, expr.CmpOpEq),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}))
	chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, dnat...)
	chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, dnat...)
	chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		join(within(source, r.subnet, expr.CmpOpEq), within(destination, r.podCIDR, expr.CmpOpNeq),
			link(expr.MetaKeyOIFNAME, r.bridge, expr.CmpOpNeq), masquerade),
		join(within(source, r.subnet, expr.CmpOpEq), link(expr.MetaKeyOIFNAME, r.bridge, expr.CmpOpEq), wasDNAT(), masquerade),
		join(within(source, loopback, expr.CmpOpEq), link(expr.MetaKeyOIFNAME, r.bridge, expr.CmpOpEq), masquerade))
	err = flush(c)
	for _, missing := range []error{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: %w", errNoNFTables, err)
		}
	}
	return err
}

// flush sends the batch. Of a batch's many errors the first one says why; the others follow from it.
func flush(c *nftables.Conn) error {
	err := c.Flush()
	var all interface{ Unwrap() []error }
	for errors.As(err, &all) {
		err = all.Unwrap()[0]
	}
	return err
}

// installed tells whether the table is there.
func (r *rules) installed() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	table, err := c.ListTableOfFamily(r.table, nftables.TableFamilyIPv4)
	return err == nil && table != nil
}

func (r *rules) remove() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(r.nft())
	if err := flush(c); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables table %s: %w", r.table, err)
	}
	return nil
}

// addPorts opens the host ports of one sandbox, all or none. Ports that are open for it already are success.
func (r *rules) addPorts(l lease) error {
	return r.eachMap([]lease{l}, "host ports", func(c *nftables.Conn, set *nftables.Set, all []nftables.SetElement) error {
		return c.SetAddElements(set, all)
	})
}

// deletePorts closes the host ports of one sandbox, those that are still open.
func (r *rules) deletePorts(l lease) error {
	for _, p := range l.Ports { // one by one: a missing element undoes the whole batch
		one := lease{IP: l.IP, Ports: []PortMapping{p}}
		err := r.eachMap([]lease{one}, "host port", func(c *nftables.Conn, set *nftables.Set, all []nftables.SetElement) error {
			return c.SetDeleteElements(set, all)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return forgetFlows(l)
}

// replacePorts makes the host ports of all leases, and no others, the open ones in one step.
func (r *rules) replacePorts(all map[string]lease) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.FlushSet(r.anyAddr())
	c.FlushSet(r.oneAddr())
	var flat []lease
	for _, l := range all {
		flat = append(flat, l)
	}
	return r.change(c, flat, "host ports", func(c *nftables.Conn, set *nftables.Set, all []nftables.SetElement) error {
		return c.SetAddElements(set, all)
	})
}

type mapChange func(c *nftables.Conn, set *nftables.Set, all []nftables.SetElement) error

func (r *rules) eachMap(all []lease, what string, f mapChange) error {
	var ports int
	for _, l := range all {
		ports += len(l.Ports)
	}
	if ports == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	return r.change(c, all, what, f)
}

// change applies f to the elements of the leases in each map, in one transaction.
func (r *rules) change(c *nftables.Conn, all []lease, what string, f mapChange) error {
	var anyAddr, oneAddr []nftables.SetElement
	for _, l := range all {
		for _, p := range l.Ports {
			element, specific, err := portElement(l.IP, p)
			if err != nil {
				return err
			}
			if specific {
				oneAddr = append(oneAddr, element)
			} else {
				anyAddr = append(anyAddr, element)
			}
		}
	}
	if len(anyAddr) > 0 {
		if err := f(c, r.anyAddr(), anyAddr); err != nil {
			return err
		}
	}
	if len(oneAddr) > 0 {
		if err := f(c, r.oneAddr(), oneAddr); err != nil {
			return err
		}
	}
	err := flush(c)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s: taken by another Pod of this node: %w", what, err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// portElement is one host port as a map element; specific tells which map.
func portElement(pod netip.Addr, p PortMapping) (e nftables.SetElement, specific bool, err error) {
	proto, ok := map[string]byte{"": unix.IPPROTO_TCP, "TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}[strings.ToUpper(p.Protocol)]
	if !ok || p.HostPort < 1 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
		return e, false, fmt.Errorf("invalid host port %d → %d/%s", p.HostPort, p.ContainerPort, p.Protocol)
	}
	// Each part of a concatenation fills 4 bytes.
	port := func(n int32) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(n)), 0, 0) }
	e.Key = append([]byte{proto, 0, 0, 0}, port(p.HostPort)...)
	e.Val = append(pod.AsSlice(), port(p.ContainerPort)...)
	if p.HostIP == "" {
		return e, false, nil
	}
	ip, err := netip.ParseAddr(p.HostIP)
	switch {
	case err != nil:
		return e, false, fmt.Errorf("invalid hostIP: %w", err)
	case ip.IsUnspecified():
		return e, false, nil
	case !ip.Unmap().Is4():
		return e, false, fmt.Errorf("hostIP %s: only IPv4 is supported", ip)
	}
	e.Key = append(ip.Unmap().AsSlice(), e.Key...)
	return e, true, nil
}

// forgetFlows drops the kernel's memory of UDP flows to the Pod, which would send a peer's next datagrams to an address
// that is nobody's, or another Pod's, for as long as they keep coming.
func forgetFlows(l lease) error {
	for _, p := range l.Ports {
		if !strings.EqualFold(p.Protocol, "UDP") {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		if err := errors.Join(
			filter.AddProtocol(unix.IPPROTO_UDP), filter.AddIP(netlink.ConntrackReplySrcIP, l.IP.AsSlice()),
		); err != nil {
			return err
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
		return err
	}
	return nil
}

// The rest says single matches of a rule. Registers 8, 9, 10 are the 4-byte ones that a concatenated key lies in.

type side uint32 // offset in the IPv4 header

const (
	source      side = 12
	destination side = 16
)

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func address(s side, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(s), Len: 4}}
}

func within(s side, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return append(address(s, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()})
}

func link(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func wasDNAT() []expr.Any {
	const dstNATDone = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNATDone), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func portKey(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// portLookup ends a rule for packets whose key is not in the map.
func portLookup(name string) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: 8, DestRegister: 8, IsDestRegSet: true, SetName: name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 8, RegProtoMin: 9},
	}
}
