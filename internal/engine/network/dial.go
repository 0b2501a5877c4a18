package network

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netns"
)

// DialIn connects to addr, an IP address and port, from within the network namespace at netnsPath: port-forward to a
// Pod's 127.0.0.1.
func DialIn(ctx context.Context, netnsPath, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread belongs to this goroutine until it is back home; else it ends with it.
		runtime.LockOSThread()
		var r result
		defer func() { done <- r }()
		home, err := netns.Get()
		if err != nil {
			r.err = err
			return
		}
		defer home.Close()
		target, err := netns.GetFromPath(netnsPath)
		if err != nil {
			r.err = fmt.Errorf("network namespace %s: %w", netnsPath, err)
			return
		}
		defer target.Close()
		if r.err = netns.Set(target); r.err != nil {
			return
		}
		r.conn, r.err = (&net.Dialer{}).DialContext(ctx, network, addr)
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	r := <-done
	return r.conn, r.err
}
