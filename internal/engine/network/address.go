package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// lease is what one sandbox has.
type lease struct {
	IP    netip.Addr    `json:"ip"`
	Ports []PortMapping `json:"ports,omitempty"`
}

// leases gives out the addresses of a subnet. An address that was given back is the last to be given out again, because
// peers may still remember it (ARP, conntrack, clients).
type leases struct {
	dir    string
	subnet netip.Prefix

	mu   sync.Mutex
	of   map[string]lease // sandbox ID →
	used map[netip.Addr]bool
	last netip.Addr // given out most recently
}

const leaseSuffix = ".json"

func openLeases(dir string, subnet netip.Prefix) (*leases, error) {
	l := &leases{dir: dir, subnet: subnet, of: map[string]lease{}, used: map[netip.Addr]bool{}, last: gateway(subnet)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var newest int64
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), leaseSuffix)
		if !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		var one lease
		if err := json.Unmarshal(b, &one); err != nil {
			// A power cut may leave an empty file; what it described did not outlive the cut either.
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		l.of[id] = one
		l.used[one.IP] = true
		if st, err := e.Info(); err == nil && st.ModTime().UnixNano() > newest && subnet.Contains(one.IP) {
			newest, l.last = st.ModTime().UnixNano(), one.IP
		}
	}
	return l, nil
}

// gateway is the bridge's address.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// take gives the sandbox an address, its old one if it has one in this subnet, and remembers it with the ports.
func (l *leases) take(id string, ports []PortMapping) (lease, error) {
	if id != filepath.Base(id) {
		return lease{}, fmt.Errorf("invalid sandbox ID %q", id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.of[id]
	if !ok || !l.subnet.Contains(one.IP) {
		ip, err := l.next()
		if err != nil {
			return lease{}, err
		}
		one.IP = ip
	}
	one.Ports = ports
	if err := l.save(id, one); err != nil {
		return lease{}, err
	}
	l.of[id], l.used[one.IP], l.last = one, true, one.IP
	return one, nil
}

// next finds the first free address after the one given out last. Network, gateway and broadcast are never given.
func (l *leases) next() (netip.Addr, error) {
	for ip := l.last.Next(); ip != l.last; ip = ip.Next() {
		if !l.subnet.Contains(ip.Next()) { // the broadcast address, or beyond: begin again
			ip = gateway(l.subnet)
			if ip == l.last {
				break
			}
			continue
		}
		if !l.used[ip] {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in %s: all %d are taken", l.subnet, len(l.used))
}

// save replaces the file in one step.
func (l *leases) save(id string, one lease) error {
	b, err := json.Marshal(one)
	if err != nil {
		return err
	}
	file := filepath.Join(l.dir, id+leaseSuffix)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (l *leases) get(id string) lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[id]
}

func (l *leases) all() map[string]lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.of)
}

// release gives the sandbox' address back.
func (l *leases) release(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.of[id]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(l.dir, id+leaseSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(l.of, id)
	delete(l.used, one.IP)
	return nil
}
