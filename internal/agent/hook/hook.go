// Package hook runs the lifecycle handlers of containers: postStart and preStop.
//
// The semantics and texts are those of pkg/kubelet/lifecycle in Kubernetes 1.37. A Runner only runs
// one handler once; when it runs, how long it may take and what follows from a failure is the
// caller's matter, who also sees to it that a hook that has begun is not run a second time.
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// Reasons and messages of the events about hooks that failed. The output stays out of them, because
// more people may read events than may read logs.
const (
	ReasonPostStartFailed  = "FailedPostStartHook"
	MessagePostStartFailed = "PostStartHook failed"
	ReasonPreStopFailed    = "FailedPreStopHook"
	MessagePreStopFailed   = "PreStopHook failed"

	reasonHTTPFallback = "LifecycleHTTPFallback"
)

// maxOutput is how much of the end of a command's output is kept, in bytes.
const maxOutput = 2 << 10

// maxBody is how much of an HTTP response is read, in bytes, before the connection is given up.
const maxBody = 10 << 10

// ErrInvalidHandler is returned for a handler that sets none of exec, httpGet and sleep. tcpSocket is
// such a one: the API accepts it for old manifests' sake only.
var ErrInvalidHandler = errors.New("invalid handler")

// Engine is the part of the CRI runtime service that hooks need.
type Engine interface {
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
}

// Config is what a Runner needs.
type Config struct {
	Engine   Engine
	Recorder record.EventRecorder // optional: told when an HTTPS hook had to fall back to HTTP
	Log      *slog.Logger         // nil means slog.Default()
}

// Runner runs lifecycle handlers. It keeps no state between runs and may be used concurrently.
type Runner struct {
	engine   Engine
	recorder record.EventRecorder
	log      *slog.Logger
	http     *http.Client
}

// New returns a Runner.
func New(cfg Config) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Runner{
		engine:   cfg.Engine,
		recorder: cfg.Recorder,
		log:      cfg.Log,
		// It must never carry credentials: manifests choose the hosts it talks to. Nor does it verify
		// certificates; hooks are addressed by Pod IP, which none is issued for.
		http: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the contract of httpGet hooks
				DisableKeepAlives: true,
			},
			CheckRedirect: httpprobe.RedirectChecker(false),
		},
	}
}

// Run runs handler for a running container of pod and returns when it is done or ctx is. output is
// the end (2 KiB) of what a command printed, its stderr after its stdout. The error's text is the
// message upstream gives, with names of container and Pod. podIP is where httpGet goes unless the
// handler names a host.
func (r *Runner) Run(ctx context.Context, pod *v1.Pod, container *v1.Container, containerID, podIP string, handler *v1.LifecycleHandler) (output string, err error) {
	where := fmt.Sprintf("for Container %q in Pod %q failed - error", container.Name, fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID))
	switch {
	case handler.Exec != nil:
		output, err = r.exec(ctx, containerID, handler.Exec.Command)
		if err != nil {
			err = fmt.Errorf("Exec lifecycle hook (%v) %s: %w, message: %q", handler.Exec.Command, where, err, output)
		}
	case handler.HTTPGet != nil:
		if err = r.httpGet(ctx, pod, container, podIP, handler.HTTPGet); err != nil {
			err = fmt.Errorf("HTTP lifecycle hook (%s) %s: %w", handler.HTTPGet.Path, where, err)
		}
	case handler.Sleep != nil:
		if err = sleep(ctx, time.Duration(handler.Sleep.Seconds)*time.Second); err != nil {
			err = fmt.Errorf("Sleep lifecycle hook (%d) %s: %w", handler.Sleep.Seconds, where, err)
		}
	default:
		err = fmt.Errorf("Cannot run handler: %w: %v", ErrInvalidHandler, handler)
	}
	return output, err
}

// exec sets no time limit of its own: the Pod's grace period or deletion ends ctx.
func (r *Runner) exec(ctx context.Context, containerID string, command []string) (string, error) {
	resp, err := r.engine.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: containerID, Cmd: command})
	if err != nil {
		return "", err
	}
	output := tail(append(resp.Stdout[:len(resp.Stdout):len(resp.Stdout)], resp.Stderr...))
	if resp.ExitCode != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), resp.ExitCode, tail(resp.Stderr))
	}
	return output, err
}

func tail(b []byte) string {
	return strings.ToValidUTF8(string(b[max(0, len(b)-maxOutput):]), "")
}

// httpGet succeeds with any response: only not getting one is a failure.
func (r *Runner) httpGet(ctx context.Context, pod *v1.Pod, container *v1.Container, podIP string, action *v1.HTTPGetAction) error {
	if action.Host == "" && podIP == "" {
		return errors.New("failed to find networking container: the pod has no IP")
	}
	req, err := httpprobe.NewRequestForHTTPGetAction(action, container, podIP, "lifecycle")
	if err != nil {
		return err
	}
	req = req.WithContext(ctx)
	err = r.do(req)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return err
	}
	// Long ago scheme was ignored, so manifests say HTTPS of servers that do not speak it.
	r.log.Info("HTTPS lifecycle hook got an HTTP response, trying HTTP", "pod", pod.Name, "namespace", pod.Namespace, "host", req.URL.Host)
	plain := req.Clone(ctx)
	plain.URL.Scheme = "http"
	plain.Header.Del("Authorization")
	if r.do(plain) != nil {
		return err
	}
	if r.recorder != nil {
		r.recorder.Eventf(pod, v1.EventTypeWarning, reasonHTTPFallback,
			"request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host)
	}
	return nil
}

func (r *Runner) do(req *http.Request) error {
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Let the server finish a short answer; how the body ends does not matter.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errors.New("container terminated before sleep hook finished")
	case <-timer.C:
		return nil
	}
}
