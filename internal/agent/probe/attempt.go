package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

const (
	reasonUnhealthy = "Unhealthy"
	reasonWarning   = "ProbeWarning"

	maxTries  = 3        // of one attempt, when it could not be carried out
	maxOutput = 10 << 10 // bytes of a command's output that are kept

	// execSlack is how long the engine may take to end a command that timed out.
	execSlack = 2 * time.Minute
)

// attempt is one run of a probe.
type attempt struct {
	kind      Kind
	pod       *v1.Pod
	container *v1.Container
	spec      *v1.Probe
	id, podIP string
	slow      bool // the last one was
}

// verdict is what came of an attempt. One that could not be carried out does not count.
type verdict struct {
	outcome Outcome
	output  string
	discard bool
	slow    bool // a command that took longer than it is taken to be at work
}

// run carries out one attempt and records its event.
func (m *Manager) run(ctx context.Context, a attempt) (v verdict) {
	if a.spec.Exec != nil {
		done, err := m.exec.take(ctx, a.slow)
		if err != nil {
			return verdict{discard: true}
		}
		defer done()
		defer func(begun time.Time) { v.slow = time.Since(begun) > patience }(time.Now())
	}
	var result probe.Result
	var output string
	var err error
	for range maxTries {
		if result, output, err = m.try(ctx, a); err == nil || ctx.Err() != nil {
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return verdict{discard: true} // nobody wants to know any more
	case err != nil:
		m.event(a, reasonUnhealthy, fmt.Sprintf("%s probe errored and resulted in %s state: %s", a.kind, result, err))
		return verdict{discard: true}
	case result == probe.Success:
		return verdict{outcome: Success, output: output}
	case result == probe.Warning:
		m.event(a, reasonWarning, fmt.Sprintf("%s probe warning: %s", a.kind, output))
		return verdict{outcome: Success, output: output}
	default:
		if result == probe.Failure {
			m.event(a, reasonUnhealthy, fmt.Sprintf("%s probe failed: %s", a.kind, output))
		}
		return verdict{outcome: Failure, output: output}
	}
}

// event records a warning about the container, as upstream refers to it.
func (m *Manager) event(a attempt, reason, message string) {
	if m.cfg.Recorder == nil {
		return
	}
	field := "spec.containers"
	for i := range a.pod.Spec.InitContainers {
		if a.pod.Spec.InitContainers[i].Name == a.container.Name {
			field = "spec.initContainers"
		}
	}
	m.cfg.Recorder.Event(&v1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: a.pod.Namespace, Name: a.pod.Name, UID: a.pod.UID,
		ResourceVersion: a.pod.ResourceVersion, FieldPath: fmt.Sprintf("%s{%s}", field, a.container.Name),
	}, v1.EventTypeWarning, reason, message)
}

func (m *Manager) try(ctx context.Context, a attempt) (probe.Result, string, error) {
	timeout := time.Duration(max(1, a.spec.TimeoutSeconds)) * time.Second
	switch {
	case a.spec.Exec != nil:
		return m.command(ctx, a, timeout)
	case a.spec.HTTPGet != nil:
		req, err := httpprobe.NewRequestForHTTPGetAction(a.spec.HTTPGet, a.container, a.podIP, "probe")
		if err != nil {
			return probe.Unknown, "", err
		}
		if p := a.spec.HTTPGet.Protocol; p != nil && *p == v1.HTTPProtocolHTTP2 {
			return m.http.ProbeH2C(req.WithContext(ctx), timeout)
		}
		return m.http.Probe(req.WithContext(ctx), timeout)
	case a.spec.TCPSocket != nil:
		return dial(ctx, a, timeout)
	case a.spec.GRPC != nil:
		return grpcHealth(ctx, a, timeout)
	default:
		return probe.Unknown, "", fmt.Errorf("missing probe handler for %s_%s(%s):%s", a.pod.Name, a.pod.Namespace, a.pod.UID, a.container.Name)
	}
}

// command runs the probe's command in the container. Only the variables that the manifest spells out are
// expanded in it, not those that come from elsewhere.
func (m *Manager) command(ctx context.Context, a attempt, timeout time.Duration) (probe.Result, string, error) {
	env := map[string]string{}
	for _, e := range a.container.Env {
		env[e.Name] = e.Value
	}
	command := make([]string, len(a.spec.Exec.Command))
	for i, arg := range a.spec.Exec.Command {
		command[i] = expansion.Expand(arg, expansion.MappingFuncFor(env))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+execSlack)
	defer cancel()
	resp, err := m.cfg.Engine.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: a.id, Cmd: command, Timeout: int64(timeout.Seconds())})
	if status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return probe.Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout), nil
	}
	if err != nil {
		return probe.Unknown, "", err
	}
	output := append(resp.Stdout[:len(resp.Stdout):len(resp.Stdout)], resp.Stderr...)
	output = output[:min(len(output), maxOutput)]
	if resp.ExitCode != 0 {
		return probe.Failure, string(output), nil
	}
	return probe.Success, string(output), nil
}

func dial(ctx context.Context, a attempt, timeout time.Duration) (probe.Result, string, error) {
	port, err := probe.ResolveContainerPort(a.spec.TCPSocket.Port, a.container)
	if err != nil {
		return probe.Unknown, "", err
	}
	host := a.spec.TCPSocket.Host
	if host == "" {
		host = a.podIP
	}
	dialer := probe.ProbeDialer()
	dialer.Timeout = timeout
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return probe.Failure, err.Error(), nil
	}
	_ = conn.Close()
	return probe.Success, "", nil
}

// grpcHealth asks the health service. Upstream's prober takes no context: when ctx ends first, its
// call is left to end by the probe's own timeout.
func grpcHealth(ctx context.Context, a attempt, timeout time.Duration) (result probe.Result, output string, err error) {
	service := ""
	if a.spec.GRPC.Service != nil {
		service = *a.spec.GRPC.Service
	}
	options := grpcprobe.ProbeOptions{UseTLS: a.spec.GRPC.Mode != nil && *a.spec.GRPC.Mode == v1.GRPCProbeModeTLS}
	type answer struct {
		result probe.Result
		output string
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		result, output, err := grpcprobe.New().Probe(a.podIP, service, int(a.spec.GRPC.Port), timeout, options)
		done <- answer{result, output, err}
	}()
	select {
	case <-ctx.Done():
		return probe.Unknown, "", ctx.Err()
	case got := <-done:
		return got.result, got.output, got.err
	}
}
