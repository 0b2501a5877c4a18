package kubeletapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	tunnel "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// v5Streams are the client's ends of a remote command; those it did not ask for are nil.
type v5Streams struct {
	stdin          io.Reader
	stdout, stderr io.WriteCloser
	resize         <-chan remotecommand.TerminalSize
}

// serveV5 speaks v5.channel.k8s.io, which can say that stdin has ended. The library serves the older
// protocols, and upstream translates this one to SPDY; here it is served directly. what names the
// action in errors.
func (s *Server) serveV5(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, what string, run func(context.Context, v5Streams) error) {
	pick := func(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{remotecommand.StreamProtocolV5Name: {Binary: true, Channels: []wsstream.ChannelType{
		remotecommand.StreamStdIn:  pick(opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: pick(opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: pick(opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}}})
	conn.SetIdleTimeout(streamIdle)
	_, channels, err := conn.Open(w, r)
	if err != nil {
		s.log.Info("Cannot open a WebSocket", "error", err)
		return // the client has been told
	}
	var resizing sync.WaitGroup
	defer resizing.Wait()
	defer conn.Close()

	resize := make(chan remotecommand.TerminalSize)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	resizing.Go(func() { decodeSizes(ctx, channels[remotecommand.StreamResize], resize) })
	streams := v5Streams{resize: resize}
	if opts.Stdin {
		streams.stdin = channels[remotecommand.StreamStdIn]
	}
	if opts.Stdout {
		streams.stdout = channels[remotecommand.StreamStdOut]
	}
	if opts.Stderr {
		streams.stderr = channels[remotecommand.StreamStdErr]
	}
	// An empty message tells the client that the connection stands; it expects it on the first channel.
	for _, c := range []struct {
		wanted  bool
		channel int
	}{{opts.Stdout, remotecommand.StreamStdOut}, {opts.Stderr, remotecommand.StreamStdErr}, {true, remotecommand.StreamErr}} {
		if c.wanted {
			_, _ = channels[c.channel].Write(nil)
			break
		}
	}
	status, err := json.Marshal(outcome(run(ctx, streams), what))
	if err == nil {
		_, err = channels[remotecommand.StreamErr].Write(status)
	}
	if err != nil {
		s.log.Debug("Cannot tell a client how its command ended", "error", err)
	}
}

// decodeSizes passes on the sizes of the client's terminal, and closes the channel after the last.
func decodeSizes(ctx context.Context, r io.Reader, sizes chan<- remotecommand.TerminalSize) {
	defer close(sizes)
	decoder := json.NewDecoder(r)
	for {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case sizes <- size:
		case <-ctx.Done():
			return
		}
	}
}

// outcome is how a remote command's end is told to the client.
func outcome(err error, what string) metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(exit.ExitStatus())}}},
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("%s: %w", what, err)).ErrStatus
}

// untunnel opens a WebSocket that carries SPDY and returns what a SPDY request would have brought: a
// writer that can be hijacked and a request that asks for the upgrade.
func untunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	upgrader := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		// Who calls has a client certificate; pages in browsers do not get that far.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, err
	}
	request := r.Clone(r.Context())
	request.Method, request.Body = http.MethodPost, http.NoBody
	for _, h := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions", wsstream.WebSocketProtocolHeader} {
		request.Header.Del(h)
	}
	request.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	request.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	request.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardV1Name)
	return &tunnelWriter{conn: tunnel.NewTunnelingConnectionWithLogger(klog.FromContext(r.Context()), ws), header: http.Header{}}, request, nil
}

// tunnelWriter is the inner end of a tunnel. The upgrade has been answered outside, so whatever is
// written before hijacking goes nowhere.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

var _ http.Hijacker = (*tunnelWriter)(nil)

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) WriteHeader(int)             {}
func (t *tunnelWriter) Write(b []byte) (int, error) { return len(b), nil }

func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}
