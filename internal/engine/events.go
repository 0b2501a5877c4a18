package engine

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/sandbox"
)

// backlog is how many events a subscriber may be behind. One that is further behind loses its subscription, and so knows
// that it must look at everything again; the engine never waits for it, nor does it drop single events.
const backlog = 4096

// broker hands events to subscribers.
type broker struct {
	mu          sync.Mutex
	closed      bool
	subscribers map[chan *runtimeapi.ContainerEventResponse]bool
}

func (b *broker) subscribe() chan *runtimeapi.ContainerEventResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := make(chan *runtimeapi.ContainerEventResponse, backlog)
	if b.closed {
		close(events)
		return events
	}
	if b.subscribers == nil {
		b.subscribers = map[chan *runtimeapi.ContainerEventResponse]bool{}
	}
	b.subscribers[events] = true
	return events
}

func (b *broker) unsubscribe(events chan *runtimeapi.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subscribers[events] {
		delete(b.subscribers, events)
		close(events)
	}
}

func (b *broker) send(event *runtimeapi.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for events := range b.subscribers {
		select {
		case events <- event:
		default:
			delete(b.subscribers, events)
			close(events)
		}
	}
}

func (b *broker) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subscribers) == 0
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for events := range b.subscribers {
		delete(b.subscribers, events)
		close(events)
	}
}

// publish tells subscribers that the sandbox, or the container id of it, has changed, with the newest status of all.
func (e *Engine) publish(s *sandbox.Sandbox, id string, kind runtimeapi.ContainerEventType) {
	s.Events.Lock() // so that of two events of a Pod the later has the newer status
	defer s.Events.Unlock()
	if e.events.idle() {
		return
	}
	e.events.send(&runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(),
		PodSandboxStatus: sandboxStatus(s), ContainersStatuses: e.containerStatuses(s.ID),
	})
}

func (e *Engine) containerChanged(c *container.Container, kind runtimeapi.ContainerEventType) {
	if s, err := e.registry.sandbox(c.SandboxID); err == nil {
		e.publish(s, c.ID, kind)
	}
}

// GetContainerEvents sends every change until the stream's context ends or the engine closes. Each event has the status
// of the sandbox and of all its containers. A subscriber that falls too far behind gets ResourceExhausted.
func (e *Engine) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := e.events.subscribe()
	defer e.events.unsubscribe(events)
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case event, ok := <-events:
			if !ok {
				return grpcstatus.Error(codes.ResourceExhausted, "the engine is closing, or too many events were not read in time")
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}
