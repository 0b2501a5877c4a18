package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/network"
	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/stream"
)

// maxSyncOutput is how much of each stream ExecSync returns, as CRI asks.
const maxSyncOutput = 16 << 20

// ExecSync runs a command in a running container to its end, or for Timeout seconds (0: without limit); after that it is
// killed and the error's code is DeadlineExceeded.
func (e *Engine) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	var out, errs capped
	code, err := e.exec(ctx, req.GetContainerId(), req.GetCmd(), false, ociruntime.Exec{
		Stdout: &out, Stderr: &errs, Timeout: time.Duration(req.GetTimeout()) * time.Second,
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, grpcstatus.Errorf(codes.DeadlineExceeded, "command %q timed out: timeout %ds exceeded", req.GetCmd(), req.GetTimeout())
	}
	if err != nil {
		return nil, internal(err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: out.kept.Bytes(), Stderr: errs.kept.Bytes(), ExitCode: int32(code)}, nil
}

// capped keeps the first maxSyncOutput bytes and throws the rest away, so that the command goes on.
type capped struct{ kept bytes.Buffer }

func (c *capped) Write(b []byte) (int, error) {
	c.kept.Write(b[:min(len(b), maxSyncOutput-c.kept.Len())])
	return len(b), nil
}

func (e *Engine) exec(ctx context.Context, id string, cmd []string, tty bool, x ociruntime.Exec) (int, error) {
	if len(cmd) == 0 {
		return 0, grpcstatus.Error(codes.InvalidArgument, "no command is given")
	}
	c, err := e.running(id)
	if err != nil {
		return 0, err
	}
	first, err := c.Process()
	if err != nil {
		return 0, err
	}
	process := *first
	process.Args, process.Terminal = cmd, tty
	x.ID, x.Process, x.Dir = c.ID, &process, c.Bundle()
	code, err := c.Runtime().Exec(ctx, x)
	if err != nil {
		return 0, fmt.Errorf("cannot exec in container %s: %w", c.ID, err)
	}
	return code, nil
}

// Streams are Exec, Attach and PortForward over given streams, for clients in the same process and for the server behind
// the URLs. They are a value of their own because CRI has methods of the same names. Their errors are told to users, and
// so are no gRPC statuses unless what they concern is not there.
func (e *Engine) Streams() streaming.Runtime { return streams{e} }

type streams struct{ e *Engine }

// Exec runs a command in a running container until it ends or ctx does. As in upstream's runtimes the command of a client
// that goes away is not killed, see ociruntime.Runtime.Exec. The error of a command that ended with another code than 0
// is a utilexec.ExitError.
func (s streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	x := ociruntime.Exec{Stdin: in}
	if out != nil {
		x.Stdout = out
	}
	if errs != nil {
		x.Stderr = errs
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if tty {
		x.Resize = stream.Sizes(ctx, resize)
	}
	code, err := s.e.exec(ctx, id, cmd, tty, x)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// Attach connects to the standard streams of a running container until it ends or the client goes away. The end of the
// client's input ends that of a container with StdinOnce; from any other, and from a terminal, it detaches the client, as
// it does in containerd.
func (s streams) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.e.running(id)
	if err != nil {
		return err
	}
	conn, err := conmon.Attach(c.Bundle())
	if err != nil {
		return fmt.Errorf("cannot attach to container %s: %w", c.ID, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.Config.GetTty() {
		go stream.Follow(ctx, resize, func(size ociruntime.Size) {
			if err := conmon.Resize(c.Bundle(), size.Width, size.Height); err != nil {
				s.e.log.Debug("cannot resize a terminal", "container", c.ID, "error", err)
			}
		})
	}
	if !c.Config.GetStdin() {
		in = nil
	}
	return stream.Attach(ctx, conn, in, out, errs, !c.Config.GetStdinOnce() || c.Config.GetTty())
}

// PortForward connects a stream with a port on the Pod's loopback.
func (s streams) PortForward(ctx context.Context, id string, port int32, client io.ReadWriteCloser) error {
	box, err := s.e.registry.sandbox(id)
	if err != nil {
		return err
	}
	if !box.Ready() {
		return grpcstatus.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", box.ID)
	}
	if port < 1 || port > 65535 {
		return grpcstatus.Errorf(codes.InvalidArgument, "invalid port %d", port)
	}
	conn, err := dialPod(ctx, box.NetNS(), port)
	if err != nil {
		return fmt.Errorf("cannot forward port %d of sandbox %s: %w", port, box.ID, err)
	}
	return stream.Join(ctx, client, conn)
}

// dialPod connects to a port on the loopback of a network namespace, by IPv4 or else IPv6; netns empty: the host's.
func dialPod(ctx context.Context, netns string, port int32) (net.Conn, error) {
	dial := (&net.Dialer{}).DialContext
	if netns != "" {
		dial = func(ctx context.Context, proto, addr string) (net.Conn, error) {
			return network.DialIn(ctx, netns, proto, addr)
		}
	}
	conn, err := dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		var err6 error
		if conn, err6 = dial(ctx, "tcp", fmt.Sprintf("[::1]:%d", port)); err6 != nil {
			return nil, err // the first is what most users can make sense of
		}
	}
	return conn, nil
}
