package kubeletapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	streamIdle     = 4 * time.Hour // without a byte in either direction
	streamCreation = remotecommand.DefaultStreamCreationTimeout
)

// stream wraps a handler that takes its connection over. http.Server no longer knows such
// connections, so they are closed here when the server ends; that ends the handlers as well.
func (s *Server) stream(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			defer context.AfterFunc(r.Context(), func() { _ = conn.Close() })()
		}
		next(w, r)
	}
}

// serveExec runs a command in a running container with the client's streams.
func (s *Server) serveExec(w http.ResponseWriter, r *http.Request) {
	opts, _, id := s.remoteCommand(w, r, "container not found (%q)")
	if opts == nil {
		return
	}
	command := r.URL.Query()["command"]
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.serveV5(w, r, opts, "error executing command in container", func(ctx context.Context, io v5Streams) error {
			return s.cfg.Streams.Exec(ctx, id, command, io.stdin, io.stdout, io.stderr, opts.TTY, io.resize)
		})
		return
	}
	remotecommand.ServeExec(w, r, executor{s.cfg.Streams}, "", "", id, command, opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// serveAttach connects the client's streams to the container's first process.
func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request) {
	opts, pod, id := s.remoteCommand(w, r, "container %s not found in pod "+r.PathValue("pod")+"_"+r.PathValue("namespace"))
	if opts == nil {
		return
	}
	// Whether there is a terminal was decided when the container was made. What the client says only
	// tells which streams it opens.
	_, tty := hasContainer(pod, r.PathValue("container"))
	engine := attacher{s.cfg.Streams, tty}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.serveV5(w, r, opts, "error attaching to container", func(ctx context.Context, io v5Streams) error {
			return engine.AttachContainer(ctx, "", "", id, io.stdin, io.stdout, io.stderr, opts.TTY, io.resize)
		})
		return
	}
	remotecommand.ServeAttach(w, r, engine, "", "", id, opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// remoteCommand finds what exec and attach have in common: the streams wanted, the Pod and the
// container's ID. When it cannot, it has answered and returns no options; missing is the text for a
// container that does not run.
func (s *Server) remoteCommand(w http.ResponseWriter, r *http.Request, missing string) (*remotecommand.Options, *v1.Pod, string) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return nil, nil, ""
	}
	pod := s.pod(r)
	if pod == nil {
		writeError(w, http.StatusNotFound, errNoPod)
		return nil, nil, ""
	}
	id, err := s.runningContainer(r.Context(), pod, r.PathValue("container"))
	if err == nil && id == "" {
		err = fmt.Errorf(missing, r.PathValue("container"))
	}
	if err != nil {
		_ = streaming.WriteError(err, w)
		return nil, nil, ""
	}
	return opts, pod, id
}

// servePortForward carries connections to ports of the Pod's network.
func (s *Server) servePortForward(w http.ResponseWriter, r *http.Request) {
	tunnelled := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	opts := &portforward.V4Options{}
	if !tunnelled { // else the ports are named inside the tunnel
		var err error
		if opts, err = portforward.NewV4Options(r); err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
	}
	pod := s.pod(r)
	if pod == nil {
		writeError(w, http.StatusNotFound, errNoPod)
		return
	}
	resp, err := s.cfg.Engine.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod.UID)},
	}})
	if err == nil && len(resp.Items) == 0 {
		err = fmt.Errorf("pod not found (%q)", pod.Name+"_"+pod.Namespace)
	}
	if err != nil {
		_ = streaming.WriteError(err, w)
		return
	}
	if tunnelled {
		if w, r, err = untunnel(w, r); err != nil {
			s.log.Info("Cannot open a tunnel for port forwarding", "error", err)
			return // the client has been told
		}
	}
	portforward.ServePortForward(w, r, executor{s.cfg.Streams}, resp.Items[0].Id, "", opts, streamIdle, streamCreation, portforward.SupportedProtocols)
}

// executor gives the engine's streams the shape that the protocol handlers want: they pass on the
// container's or the sandbox's ID in the place of names.
type executor struct{ streams streaming.Runtime }

var (
	_ remotecommand.Executor    = executor{}
	_ remotecommand.Attacher    = attacher{}
	_ portforward.PortForwarder = executor{}
)

func (e executor) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return e.streams.Exec(ctx, id, cmd, in, out, err, tty, resize)
}

func (e executor) PortForward(ctx context.Context, sandboxID, _ string, port int32, stream io.ReadWriteCloser) error {
	return e.streams.PortForward(ctx, sandboxID, port, stream)
}

// attacher does the same for attach, with the terminal as the container has it.
type attacher struct {
	streams streaming.Runtime
	tty     bool
}

func (a attacher) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	if a.tty {
		err = nil // a terminal has one output
	}
	return a.streams.Attach(ctx, id, in, out, err, a.tty, resize)
}
