// Package stream joins a client's streams with those of a container.
//
// Nothing here outlives the call, except a read from the client's input, which only the client can end.
package stream

import (
	"context"
	"errors"
	"io"
	"net"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"peapod.dev/peapod/internal/engine/conmon"
	"peapod.dev/peapod/internal/engine/ociruntime"
)

// Follow calls set with each window size until there are no more or ctx ends.
func Follow(ctx context.Context, sizes <-chan remotecommand.TerminalSize, set func(ociruntime.Size)) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			set(ociruntime.Size{Width: s.Width, Height: s.Height})
		case <-ctx.Done():
			return
		}
	}
}

// Sizes translates window sizes. The channel is closed when the client's is; nil if that is nil.
func Sizes(ctx context.Context, sizes <-chan remotecommand.TerminalSize) <-chan ociruntime.Size {
	if sizes == nil {
		return nil
	}
	out := make(chan ociruntime.Size)
	go func() {
		Follow(ctx, sizes, func(s ociruntime.Size) {
			select {
			case out <- s:
			case <-ctx.Done():
			}
		})
		if ctx.Err() == nil {
			close(out)
		}
	}()
	return out
}

// Attach copies between a client and a monitor's attach connection, which it closes, until the container ends, the client
// takes no more output, ctx ends or, with detach, the client's input does. nil streams are not copied.
func Attach(ctx context.Context, conn *net.UnixConn, in io.Reader, out, errs io.WriteCloser, detach bool) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if in != nil {
		go func() {
			// Whole packets are sent, so a read must not be longer than the monitor's buffer.
			io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{in}, make([]byte, conmon.MaxPacket-1))
			if detach {
				conn.Close()
				return
			}
			conn.CloseWrite() // and so ends the container's input, where it is to end with its first client
		}()
	}
	packet := make([]byte, conmon.MaxPacket)
	for {
		n, err := conn.Read(packet)
		if n == 0 || err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		to := out
		if packet[0] == conmon.Stderr {
			to = errs
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(packet[1:n]); err != nil {
			return nil // the client has gone
		}
	}
}

// Join copies both ways until both sides have ended or ctx has, and closes both.
func Join(ctx context.Context, client io.ReadWriteCloser, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); client.Close() })
	defer stop()
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(conn, client)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	_, err := io.Copy(client, conn)
	// The Pod sends no more. The client may not know that its input has no reader: tell it.
	client.Close()
	<-up
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
