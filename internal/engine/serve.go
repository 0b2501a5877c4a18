package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// maxMessage is the longest gRPC message, as with every other engine.
const maxMessage = 16 << 20

// Serve answers CRI on a unix socket ("unix:///path" or a path; mode 0600) until ctx ends. Exec, attach and port-forward
// get URLs on StreamAddr, each of which holds a random token and works once: that is CRI's own protection for them.
func (e *Engine) Serve(ctx context.Context, listen string) error {
	socket, err := listenUnix(strings.TrimPrefix(listen, "unix://"))
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", listen, err)
	}
	streamSocket, err := net.Listen("tcp", e.config.StreamAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot listen on %s: %w", e.config.StreamAddr, err), socket.Close())
	}
	config := streaming.DefaultConfig
	config.Addr = streamSocket.Addr().String()
	server, err := streaming.NewServer(config, e.Streams())
	if err != nil {
		return errors.Join(err, socket.Close(), streamSocket.Close())
	}
	e.streamsMu.Lock()
	e.streams = server
	e.streamsMu.Unlock()

	web := &http.Server{Handler: server} //nolint:gosec // streams have no time limit
	rpc := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(rpc, e)
	runtimeapi.RegisterImageServiceServer(rpc, e)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return rpc.Serve(socket) })
	g.Go(func() error {
		if err := web.Serve(streamSocket); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		rpc.Stop()
		return web.Close()
	})
	e.log.Info("serving CRI", "socket", socket.Addr().String())
	return g.Wait()
}

// listenUnix listens at path. A socket that a dead engine left is taken over; of a living one it is an error.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("another process listens there")
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Made under another name, so that there is no moment at which others can connect.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(filepath.Join(dir, "s"), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(dir, "s"), path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &namedListener{l, path}, nil
}

// namedListener removes its socket when it is closed.
type namedListener struct {
	*net.UnixListener
	path string
}

func (l *namedListener) Close() error { return errors.Join(l.UnixListener.Close(), os.Remove(l.path)) }

func (l *namedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }
