package agent

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
)

// The rate of events: what the kubelet allows itself (--event-qps), with a smaller burst. Events tell what has
// happened; a burst of Pods that start has better use for the machine.
const (
	eventQPS   = 50
	eventBurst = 10
)

// eventSink writes events at a bounded rate. The recorder queues those that wait.
type eventSink struct {
	record.EventSink
	limit flowcontrol.RateLimiter
}

func newEventSink(client kubernetes.Interface) *eventSink {
	return &eventSink{
		EventSink: &typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")},
		limit:     flowcontrol.NewTokenBucketRateLimiter(eventQPS, eventBurst),
	}
}

func (s *eventSink) Create(e *v1.Event) (*v1.Event, error) {
	s.limit.Accept()
	return s.EventSink.Create(e)
}

func (s *eventSink) Patch(old *v1.Event, data []byte) (*v1.Event, error) {
	s.limit.Accept()
	return s.EventSink.Patch(old, data)
}
