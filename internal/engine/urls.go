package engine

import (
	"context"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// Exec prepares a command whose streams go through the URL that is returned. The URL works once.
func (e *Engine) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := e.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	server, err := e.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetExec(req)
}

// Attach prepares the streams of a container at the URL that is returned.
func (e *Engine) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := e.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	server, err := e.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetAttach(req)
}

// PortForward prepares connections to the Pod's ports through the URL that is returned.
func (e *Engine) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if _, err := e.registry.sandbox(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	server, err := e.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetPortForward(req)
}

func (e *Engine) streamServer() (streaming.Server, error) {
	e.streamsMu.Lock()
	defer e.streamsMu.Unlock()
	if e.streams == nil {
		return nil, grpcstatus.Error(codes.Unavailable, "the engine serves no streams: it is not on a socket")
	}
	return e.streams, nil
}
