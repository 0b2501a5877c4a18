package agent

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventStream receives the engine's events in process, in place of a gRPC connection.
type eventStream struct {
	grpc.ServerStream // nil: an engine only calls Send and Context
	ctx               context.Context
	receive           func(*runtimeapi.ContainerEventResponse)
}

func (s *eventStream) Context() context.Context { return s.ctx }

func (s *eventStream) Send(e *runtimeapi.ContainerEventResponse) error {
	s.receive(e)
	return s.ctx.Err()
}
