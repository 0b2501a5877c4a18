package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests of root again in a network and a mount namespace of their own, which the kernel clears away
// whatever happens.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("IN_TEST_NAMESPACE") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "IN_TEST_NAMESPACE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
		t.Fatal(err)
	}
}

func config(t testing.TB) Config {
	return Config{
		Bridge: "pea-test", Subnet: netip.MustParsePrefix("10.77.0.0/24"), StateDir: filepath.Join(t.TempDir(), "net"),
		Table: "pea-test", CNIConfDir: filepath.Join(t.TempDir(), "none"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func newNetwork(t testing.TB, c Config) *Network {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// inNetNS runs f on a thread of its own in a namespace: a new one that is pinned at file when it is not there yet.
func inNetNS(file string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		done <- func() error {
			if fd, err := os.Open(file); err == nil {
				defer fd.Close()
				if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
					return err
				}
				return f()
			}
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

func newNetNS(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "netns")
	if err := inNetNS(file, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
	return file
}

// listen answers "hello from NAME" on a port in the namespace.
func listen(t testing.TB, file, protocol, addr, name string) {
	t.Helper()
	err := inNetNS(file, func() error {
		if protocol == "udp" {
			conn, err := net.ListenPacket(protocol, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				b := make([]byte, 100)
				for {
					_, from, err := conn.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo([]byte(name), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(protocol, addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, name, " to ", conn.RemoteAddr().(*net.TCPAddr).IP)
				conn.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask connects from a namespace ("": the node's) and returns the answer.
func ask(file, protocol, addr string) (string, error) {
	var answer string
	f := func() error {
		conn, err := net.DialTimeout(protocol, addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		if protocol == "udp" {
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
			b := make([]byte, 100)
			n, err := conn.Read(b)
			answer = string(b[:n])
			return err
		}
		b, err := io.ReadAll(conn)
		answer = string(b)
		return err
	}
	if file == "" {
		return answer, errors.Join(f())
	}
	err := inNetNS(file, f)
	return answer, err
}
