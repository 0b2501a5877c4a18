// Package hook runs the lifecycle handlers of containers: postStart and preStop.
//
// The semantics and texts are those of pkg/kubelet/lifecycle in Kubernetes 1.37. A Runner only runs
// one handler once; when it runs, where its command runs, how long it may take and what follows from a
// failure is the caller's matter, who also sees to it that a hook that has begun is not silently run a second time.
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

const reasonHTTPFallback = "LifecycleHTTPFallback"

// maxOutput is how much of the end of a command's output is kept, in bytes.
const maxOutput = 2 << 10

// maxBody is how much of an HTTP response is read, in bytes, before the connection is given up.
const maxBody = 10 << 10

// ErrInvalidHandler is returned for a handler that sets none of exec, httpGet and sleep. tcpSocket is
// such a one: the API accepts it for old manifests' sake only.
var ErrInvalidHandler = errors.New("invalid handler")

// Call is one run of one handler.
type Call struct {
	Pod       *v1.Pod
	Container *v1.Container
	Handler   *v1.LifecycleHandler
	// PodIP is where httpGet goes unless the handler names a host.
	PodIP string
	// Exec runs a command where the handler's is to run, until it ends or ctx does.
	Exec func(ctx context.Context, command []string) (*runtimeapi.ExecSyncResponse, error)
}

// Config is what a Runner needs.
type Config struct {
	Recorder record.EventRecorder // optional: told when an HTTPS hook had to fall back to HTTP
	Log      *slog.Logger         // nil means slog.Default()
}

// Runner runs lifecycle handlers. It keeps no state between runs and may be used concurrently.
type Runner struct {
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

// Run runs the handler and returns when it is done or ctx is. The error's text is the message that upstream gives, which
// holds the end of a command's output; cause is what an event may say of a failure: the exit code and the end (2 KiB) of
// the output, stderr after stdout, or why no answer was got. Command lines, URLs and headers, where manifests put secrets
// more often than programs print them, are not part of it.
func (r *Runner) Run(ctx context.Context, call Call) (cause string, err error) {
	pod, container, handler := call.Pod, call.Container, call.Handler
	where := fmt.Sprintf("for Container %q in Pod %q failed - error", container.Name, fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID))
	switch {
	case handler.Exec != nil:
		var output string
		output, cause, err = run(ctx, call.Exec, handler.Exec.Command)
		if err != nil {
			err = fmt.Errorf("Exec lifecycle hook (%v) %s: %w, message: %q", handler.Exec.Command, where, err, output)
		}
	case handler.HTTPGet != nil:
		if err = r.httpGet(ctx, call); err != nil {
			cause = err.Error()
			if e := (*url.Error)(nil); errors.As(err, &e) {
				cause = e.Err.Error()
			}
			err = fmt.Errorf("HTTP lifecycle hook (%s) %s: %w", handler.HTTPGet.Path, where, err)
		}
	case handler.Sleep != nil:
		if err = sleep(ctx, time.Duration(handler.Sleep.Seconds)*time.Second); err != nil {
			cause = err.Error()
			err = fmt.Errorf("Sleep lifecycle hook (%d) %s: %w", handler.Sleep.Seconds, where, err)
		}
	default:
		cause = ErrInvalidHandler.Error()
		err = fmt.Errorf("Cannot run handler: %w: %v", ErrInvalidHandler, handler)
	}
	return cause, err
}

// run sets no time limit of its own: the Pod's grace period or deletion ends ctx.
func run(ctx context.Context, exec func(context.Context, []string) (*runtimeapi.ExecSyncResponse, error), command []string) (output, cause string, err error) {
	resp, err := exec(ctx, command)
	if err != nil {
		return "", err.Error(), err
	}
	output = tail(append(resp.Stdout[:len(resp.Stdout):len(resp.Stdout)], resp.Stderr...))
	if resp.ExitCode != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), resp.ExitCode, tail(resp.Stderr))
		cause = strings.TrimSuffix(fmt.Sprintf("exit code %d: %s", resp.ExitCode, strings.TrimSpace(output)), ": ")
	}
	return output, cause, err
}

func tail(b []byte) string {
	return strings.ToValidUTF8(string(b[max(0, len(b)-maxOutput):]), "")
}

// httpGet succeeds with any response: only not getting one is a failure.
func (r *Runner) httpGet(ctx context.Context, call Call) error {
	pod, action, podIP := call.Pod, call.Handler.HTTPGet, call.PodIP
	if action.Host == "" && podIP == "" {
		return errors.New("failed to find networking container: the pod has no IP")
	}
	req, err := httpprobe.NewRequestForHTTPGetAction(action, call.Container, podIP, "lifecycle")
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
