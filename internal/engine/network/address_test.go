package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestLeases(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net")
	subnet := netip.MustParsePrefix("10.9.0.0/29") // addresses 2 to 6 are for Pods
	l, err := openLeases(dir, subnet)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(id, want string) {
		t.Helper()
		if one, err := l.take(id, nil); err != nil || one.IP.String() != want {
			t.Fatalf("take(%s) = %v, %v; want %s", id, one, err, want)
		}
	}
	release := func(id string) {
		t.Helper()
		for range 2 {
			if err := l.release(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 4 {
		expect(fmt.Sprint("p", i), fmt.Sprint("10.9.0.", 2+i))
	}
	expect("p2", "10.9.0.4") // again: the same
	release("p3")
	release("p0")
	expect("p4", "10.9.0.5") // the next one in turn after p2's, which was given last
	expect("p5", "10.9.0.6")
	expect("p6", "10.9.0.2")
	if _, err := l.take("p7", nil); err == nil {
		t.Fatal("more addresses than there are")
	}
	for _, id := range []string{"../p", "a/b"} {
		if _, err := l.take(id, nil); err == nil {
			t.Errorf("sandbox ID %q was taken", id)
		}
	}

	// A new daemon knows what is taken, and goes on after the address given last.
	release("p1")
	if err := os.WriteFile(filepath.Join(dir, "cut.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = openLeases(dir, subnet); err != nil {
		t.Fatal(err)
	}
	if got := len(l.all()); got != 4 {
		t.Errorf("%d leases after a restart: %v", got, l.all())
	}
	expect("p2", "10.9.0.4")
	expect("p7", "10.9.0.3")
}

func TestPortElement(t *testing.T) {
	pod := netip.MustParseAddr("10.9.0.2")
	for _, c := range []struct {
		port     PortMapping
		specific bool
		key      []byte
	}{
		{PortMapping{HostPort: 80, ContainerPort: 8080}, false, []byte{6, 0, 0, 0, 0, 80, 0, 0}},
		{PortMapping{HostIP: "0.0.0.0", HostPort: 53, ContainerPort: 8080, Protocol: "UDP"}, false, []byte{17, 0, 0, 0, 0, 53, 0, 0}},
		{PortMapping{HostIP: "::", HostPort: 53, ContainerPort: 8080, Protocol: "SCTP"}, false, []byte{132, 0, 0, 0, 0, 53, 0, 0}},
		{PortMapping{HostIP: "127.0.0.1", HostPort: 258, ContainerPort: 8080}, true, []byte{127, 0, 0, 1, 6, 0, 0, 0, 1, 2, 0, 0}},
	} {
		e, specific, err := portElement(pod, c.port)
		if err != nil || specific != c.specific || string(e.Key) != string(c.key) || string(e.Val) != "\x0a\x09\x00\x02\x1f\x90\x00\x00" {
			t.Errorf("%+v: %+v, %v, %v", c.port, e, specific, err)
		}
	}
	for _, p := range []PortMapping{
		{HostPort: 0, ContainerPort: 1}, {HostPort: 70000, ContainerPort: 1}, {HostPort: 1, ContainerPort: 1, Protocol: "ICMP"},
		{HostIP: "fe80::1", HostPort: 1, ContainerPort: 1}, {HostIP: "x", HostPort: 1, ContainerPort: 1},
	} {
		if _, _, err := portElement(pod, p); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}
