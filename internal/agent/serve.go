package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/options"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/kubeletapi"
)

// openAPI opens the kubelet API's port; when that is taken any free one is used, because several agents may
// share a machine and the node's status tells the port.
func (a *Agent) openAPI(certificate tls.Certificate, clients *x509.CertPool) (*kubeletapi.Server, error) {
	authorize, err := a.authorizer()
	if err != nil {
		return nil, err
	}
	cfg := kubeletapi.Config{
		NodeName: a.cfg.NodeName, Listen: a.cfg.Listen, Certificate: certificate, ClientCAs: clients, Authorize: authorize,
		Pods: a.pods, Engine: a.cfg.Engine, Streams: a.cfg.Streams, Exited: a.exited, Log: a.log,
	}
	server, err := kubeletapi.New(cfg)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, splitErr := net.SplitHostPort(cfg.Listen)
		if splitErr != nil {
			return nil, err
		}
		cfg.Listen = net.JoinHostPort(host, "0")
		server, err = kubeletapi.New(cfg)
	}
	return server, err
}

// authorizer asks the API server who may use this node's API, and remembers the answers as long as the kubelet does.
func (a *Agent) authorizer() (kubeletapi.Authorizer, error) {
	delegate, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: a.cfg.Client.AuthorizationV1(),
		AllowCacheTTL:             5 * time.Minute,
		DenyCacheTTL:              30 * time.Second,
		WebhookRetryBackoff:       options.DefaultAuthWebhookRetryBackoff(),
	}.New()
	if err != nil {
		return nil, fmt.Errorf("cannot set up the authorization of the kubelet API: %w", err)
	}
	return func(ctx context.Context, u user.Info, verb, subresource string) error {
		decision, reason, err := delegate.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: subresource, Name: a.cfg.NodeName, ResourceRequest: true,
		})
		if err != nil {
			return err
		}
		if decision != authorizer.DecisionAllow {
			return errors.New(reason)
		}
		return nil
	}, nil
}

// pods lists this node's Pods, each with the status that the agent knows.
func (a *Agent) pods() []*v1.Pod {
	workers := a.workers.all()
	out := make([]*v1.Pod, len(workers))
	for i, w := range workers {
		out[i] = w.Pod()
	}
	return out
}

// changes lets any number of goroutines wait for the engine's next event.
type changes struct {
	mu   sync.Mutex
	next chan struct{}
}

func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

func (c *changes) happened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// exited returns when the container does not run, or when ctx ends.
func (a *Agent) exited(ctx context.Context, containerID string) {
	for {
		changed := a.changes.wait()
		s, err := a.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: containerID})
		if err != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
