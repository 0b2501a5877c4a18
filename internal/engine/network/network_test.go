package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func TestPods(t *testing.T) {
	needsRoot(t)
	n := newNetwork(t, config(t))
	ctx := t.Context()
	a, b := newNetNS(t), newNetNS(t)
	ports := []PortMapping{
		{HostPort: 8080, ContainerPort: 80},
		{HostPort: 8053, ContainerPort: 53, Protocol: "UDP"},
		{HostIP: "127.0.0.1", HostPort: 9090, ContainerPort: 80, Protocol: "TCP"},
	}
	ra, err := n.Setup(ctx, Pod{SandboxID: "a", NetNS: a, Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	rb, err := n.Setup(ctx, Pod{SandboxID: "b", NetNS: b})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(ra.IPs, rb.IPs); got != "[10.77.0.2] [10.77.0.3]" {
		t.Errorf("addresses %s", got)
	}
	nft := n.driver.(*bridge).rules != nil
	listen(t, a, "tcp", ":80", "a")
	listen(t, a, "tcp", "127.0.0.1:81", "private")
	listen(t, a, "udp", ":53", "a udp")

	for _, c := range []struct{ what, from, protocol, addr, want string }{
		{"node to Pod", "", "tcp", "10.77.0.2:80", "a to 10.77.0.1"},
		{"Pod to Pod", b, "tcp", "10.77.0.2:80", "a to 10.77.0.3"},
		{"Pod to itself", a, "tcp", "10.77.0.2:80", "a to 10.77.0.2"},
		{"Pod's loopback", a, "tcp", "127.0.0.1:81", "private to 127.0.0.1"},
		{"node to host port", "", "tcp", "10.77.0.1:8080", "a to 10.77.0.1"},
		{"node to host port on localhost", "", "tcp", "127.0.0.1:8080", "a to 10.77.0.1"},
		{"UDP host port on localhost", "", "udp", "127.0.0.1:8053", "a udp"},
		{"host port with a hostIP", "", "tcp", "127.0.0.1:9090", "a to 10.77.0.1"},
		{"neighbour to host port", b, "tcp", "10.77.0.1:8080", "a to 10.77.0.1"},
		{"Pod to its own host port", a, "tcp", "10.77.0.1:8080", "a to 10.77.0.1"},
	} {
		if !nft && strings.Contains(c.what, "host port") {
			continue
		}
		if got, err := ask(c.from, c.protocol, c.addr); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
	if got, err := ask("", "tcp", "10.77.0.1:9090"); err == nil {
		t.Errorf("a port for 127.0.0.1 answers on 10.77.0.1: %q", got)
	}
	conn, err := DialIn(ctx, a, "tcp", "127.0.0.1:81")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(conn); string(got) != "private to 127.0.0.1" {
		t.Errorf("DialIn: %q", got)
	}
	conn.Close()
	if _, err := DialIn(ctx, a, "tcp", "127.0.0.1:82"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("DialIn to a closed port: %v", err)
	}

	if !nft {
		t.Skip("no nftables here: the rest is about host ports")
	}
	// Another Pod cannot have the same port, and gets it when the first one is gone.
	c := newNetNS(t)
	if _, err := n.Setup(ctx, Pod{SandboxID: "c", NetNS: c, Ports: ports}); err == nil || !strings.Contains(err.Error(), "taken by another Pod") {
		t.Errorf("a host port twice: %v", err)
	}
	for range 2 {
		if err := n.Teardown(ctx, "c", c); err != nil {
			t.Fatal(err)
		}
		if err := n.Teardown(ctx, "a", a); err != nil {
			t.Fatal(err)
		}
	}
	rc, err := n.Setup(ctx, Pod{SandboxID: "c", NetNS: c, Ports: ports})
	if err != nil || slices.Contains(rc.IPs, ra.IPs[0]) {
		t.Errorf("Setup after Teardown: %v, %v", rc, err)
	}
	// Again: a new cable, the same address.
	if again, err := n.Setup(ctx, Pod{SandboxID: "c", NetNS: c, Ports: ports}); err != nil || !slices.Equal(again.IPs, rc.IPs) {
		t.Errorf("Setup again: %v, %v; before %v", again, err, rc)
	}
	listen(t, c, "tcp", ":80", "c")
	if got, err := ask("", "tcp", "127.0.0.1:8080"); err != nil || got != "c to 10.77.0.1" {
		t.Errorf("host port of the successor: %q, %v", got, err)
	}
}

// The node's loopback stays out of Pods' reach although the bridge routes 127.0.0.0/8.
func TestLoopbackIsGuarded(t *testing.T) {
	needsRoot(t)
	n := newNetwork(t, config(t))
	file := newNetNS(t)
	if _, err := n.Setup(t.Context(), Pod{SandboxID: "evil", NetNS: file}); err != nil {
		t.Fatal(err)
	}
	service, err := net.ListenPacket("udp4", ":7777")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	// A raw packet may say one destination and take the way to another.
	send := func(destination, text string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		packet := []byte{
			0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 77, 0, 2,
		}
		packet = append(packet, netip.MustParseAddr(destination).AsSlice()...)
		packet = append(packet, 0x10, 0, 0x1e, 0x61, 0, byte(8+len(text)), 0, 0) // port 4096 → 7777, no checksum
		packet = append(packet, text...)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte{10, 77, 0, 1}})
	}
	if err := inNetNS(file, func() error {
		return errors.Join(send("127.0.0.1", "attack"), send("10.77.0.1", "control"))
	}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	_ = service.SetReadDeadline(time.Now().Add(10 * time.Second))
	size, _, err := service.ReadFrom(b)
	if err != nil || string(b[:size]) != "control" {
		t.Errorf("a Pod reached the node's loopback: %q, %v", b[:size], err)
	}
}

func TestRestart(t *testing.T) {
	needsRoot(t)
	c := config(t)
	n := newNetwork(t, c)
	if n.driver.(*bridge).rules == nil {
		t.Skip("no nftables here")
	}
	ctx := t.Context()
	kept, lost := newNetNS(t), newNetNS(t)
	ports := func(host int32) []PortMapping { return []PortMapping{{HostPort: host, ContainerPort: 80}} }
	r, err := n.Setup(ctx, Pod{SandboxID: "kept", NetNS: kept, Ports: ports(8001)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Setup(ctx, Pod{SandboxID: "lost", NetNS: lost, Ports: ports(8002)}); err != nil {
		t.Fatal(err)
	}
	listen(t, kept, "tcp", ":80", "kept")

	// Somebody flushed the node's rules meanwhile.
	flush, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	flush.FlushRuleset()
	if err := flush.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.StateDir, "cut.json"), nil, 0o600); err != nil { // by a power cut
		t.Fatal(err)
	}
	if n, err = New(c); err != nil {
		t.Fatal(err)
	}
	if err := n.Reconcile(ctx, []string{"kept"}); err != nil {
		t.Fatal(err)
	}
	if got, err := ask("", "tcp", "127.0.0.1:8001"); err != nil || got != "kept to 10.77.0.1" {
		t.Errorf("host port after a restart: %q, %v", got, err)
	}
	if _, err := netlink.LinkByName(vethName("lost")); err == nil {
		t.Error("the cable of a lost sandbox is still there")
	}
	if _, err := netlink.LinkByName(vethName("kept")); err != nil {
		t.Errorf("the cable of a live sandbox: %v", err)
	}
	next, err := n.Setup(ctx, Pod{SandboxID: "next", NetNS: newNetNS(t)})
	if err != nil || next.IPs[0] == r.IPs[0] {
		t.Errorf("next address %v, %v", next, err)
	}
}

func TestConflict(t *testing.T) {
	needsRoot(t)
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0", Flags: net.FlagUp}}
	if err := netlink.LinkAdd(other); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.LinkDel(other) }()
	add := func(p string) {
		if err := netlink.AddrAdd(other, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(p))}); err != nil {
			t.Fatal(err)
		}
	}
	add("192.168.7.9/24")
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Gw: net.IPv4(192, 168, 7, 1)}); err != nil {
		t.Fatal(err)
	}
	n, err := New(config(t))
	if err != nil {
		t.Fatalf("a wider route to a router: %v", err)
	}
	if err := n.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	add("10.77.0.128/25")
	if _, err = New(config(t)); err == nil || !strings.Contains(err.Error(), "link lan0") || !strings.Contains(err.Error(), "--pod-cidr") {
		t.Errorf("overlap: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	needsRoot(t)
	n := newNetwork(t, config(t))
	var pods []Pod
	for i := range 40 {
		pods = append(pods, Pod{
			SandboxID: fmt.Sprint("s", i), NetNS: newNetNS(t), Ports: []PortMapping{{HostPort: int32(9000 + i), ContainerPort: 80}},
		})
	}
	begun := time.Now()
	var g errgroup.Group
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	for _, p := range pods {
		g.Go(func() error {
			r, err := n.Setup(t.Context(), p)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				seen[r.IPs[0]] = true
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d Setups at once: %v", len(pods), time.Since(begun))
	if len(seen) != len(pods) {
		t.Errorf("%d addresses for %d Pods", len(seen), len(pods))
	}
	begun = time.Now()
	for _, p := range pods {
		g.Go(func() error { return n.Teardown(t.Context(), p.SandboxID, p.NetNS) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d Teardowns at once: %v", len(pods), time.Since(begun))
	for _, p := range pods {
		if err := unix.Unmount(p.NetNS, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for links := []netlink.Link{nil}; len(links) > 0; time.Sleep(time.Millisecond) {
		var err error
		if links, err = n.driver.(*bridge).cables(); err != nil || time.Now().After(deadline) {
			t.Fatalf("cables still there: %v, %v", links, err)
		}
	}
	t.Logf("all links gone after %v", time.Since(begun))
}

func BenchmarkSetupTeardown(b *testing.B) {
	needsRoot(b)
	n := newNetwork(b, config(b))
	var up, down time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		file := newNetNS(b)
		p := Pod{SandboxID: fmt.Sprint("s", i), NetNS: file, Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80}}}
		b.StartTimer()
		begun := time.Now()
		if _, err := n.Setup(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		made := time.Now()
		if err := n.Teardown(b.Context(), p.SandboxID, file); err != nil {
			b.Fatal(err)
		}
		up, down = up+made.Sub(begun), down+time.Since(made)
	}
	b.ReportMetric(float64(up.Microseconds())/float64(b.N), "µs/setup")
	b.ReportMetric(float64(down.Microseconds())/float64(b.N), "µs/teardown")
}
