package kubeletapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"
)

// authority is a cluster's CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"}})
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, parentKey := a.cert, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// client returns the PEM of a client certificate and its key.
func (a *authority) client(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	c, k := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// engine is a runtime with one Pod, one container and a log file.
type engine struct {
	logPath string
	gone    bool
}

func (e *engine) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	if e.gone {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "sandbox1", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"}}}}, nil
}

func (e *engine) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	u := func(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
	now := time.Now().UnixNano()
	c, m := &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: u(2e9)}, &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: u(4096)}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{Cpu: c, Memory: m, Containers: []*runtimeapi.ContainerStats{
			{Attributes: &runtimeapi.ContainerAttributes{Metadata: &runtimeapi.ContainerMetadata{Name: "app"}}, Cpu: c, Memory: m}}},
	}}}, nil
}

func (e *engine) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	if name, set := req.Filter.LabelSelector["io.kubernetes.container.name"]; e.gone || set && name != "app" {
		return &runtimeapi.ListContainersResponse{}, nil
	}
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{
		{Id: "old", CreatedAt: 1, PodSandboxId: "sandbox1", Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: "busybox"}},
		{Id: "c1", CreatedAt: 2},
	}}, nil
}

func (e *engine) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if req.ContainerId != "c1" {
		return nil, errors.New("no such container")
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{LogPath: e.logPath}}, nil
}

func (e *engine) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(req.ContainerId + " ran " + strings.Join(req.Cmd, "|"))}, nil
}

// streams is a runtime whose commands say what they are and then echo.
type streams struct {
	mu    sync.Mutex
	sizes []remotecommand.TerminalSize
}

func (s *streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	fmt.Fprintf(out, "%s: %s tty=%v\n", id, strings.Join(cmd, " "), tty)
	if errOut != nil {
		fmt.Fprint(errOut, "oops")
	}
	switch cmd[0] {
	case "fail":
		return utilexec.CodeExitError{Err: errors.New("exit status 3"), Code: 3}
	case "break":
		return errors.New("no runtime")
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "size":
		size := <-resize
		fmt.Fprintf(out, "%dx%d", size.Width, size.Height)
	}
	if in != nil {
		_, _ = io.Copy(out, in)
	}
	return nil
}

func (s *streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return s.Exec(ctx, id, []string{"attached"}, in, out, errOut, tty, resize)
}

func (s *streams) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	fmt.Fprintf(stream, "%s:%d ", id, port)
	_, err := io.Copy(stream, stream)
	return err
}

// bench is a server that runs, and who may call it.
type bench struct {
	*Server
	ca     *authority
	config *rest.Config // of a client that may do everything
	engine *engine
	pod    *v1.Pod
	exited chan struct{}
	stop   func()
	done   chan error
}

func start(t *testing.T) *bench {
	t.Helper()
	ca := newAuthority(t)
	serving, key := ca.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	b := &bench{ca: ca, engine: &engine{logPath: filepath.Join(t.TempDir(), "0.log")}, exited: make(chan struct{}), done: make(chan error, 1)}
	b.pod = &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app", TTY: true}, {Name: "late"}}},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "app", ContainerID: "peapod://c1", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Now()}}},
			{Name: "late", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}},
	}
	var err error
	b.Server, err = New(Config{
		NodeName: "n1", Listen: "127.0.0.1:0", ClientCAs: ca.pool(),
		Certificate: tls.Certificate{Certificate: [][]byte{serving.Raw}, PrivateKey: key},
		Authorize: func(_ context.Context, u user.Info, verb, subresource string) error {
			if u.GetName() == "reader" && (verb != "get" || subresource == "proxy") {
				return errors.New("readers do not")
			}
			return nil
		},
		Pods: func() []*v1.Pod { return []*v1.Pod{b.pod} }, Engine: b.engine, Streams: &streams{},
		Exited: func(ctx context.Context, _ string) {
			select {
			case <-ctx.Done():
			case <-b.exited:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() { b.done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-b.done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	})
	cert, clientKey := ca.client(t, "kube-apiserver-kubelet-client")
	b.config = b.as(cert, clientKey)
	return b
}

func (b *bench) as(cert, key []byte) *rest.Config {
	return &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", b.Port()), TLSClientConfig: rest.TLSClientConfig{
		CertData: cert, KeyData: key, CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.ca.cert.Raw})}}
}

func (b *bench) call(t *testing.T, config *rest.Config, method, path string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestAccess(t *testing.T) {
	b := start(t)
	reader := b.as(b.ca.client(t, "reader"))
	tests := []struct {
		name         string
		config       *rest.Config
		method, path string
		code         int
		body         string
	}{
		{"anonymous", b.as(nil, nil), "GET", "/healthz", 401, "Unauthorized"},
		{"healthz", b.config, "GET", "/healthz", 200, "ok"},
		{"pods of a reader", reader, "GET", "/pods", 200, ""},
		{"logs of a reader", reader, "GET", "/containerLogs/default/web/app", 403, "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[proxy])\n"},
		{"run of a reader", reader, "POST", "/run/default/web/app?cmd=id", 403, "Forbidden (user=reader, verb=create, resource=nodes, subresource(s)=[proxy])\n"},
		{"unknown path", b.config, "GET", "/secrets", 404, "404 page not found\n"},
		{"wrong method", b.config, "POST", "/pods", 405, "Method Not Allowed\n"},
		{"run", b.config, "POST", "/run/default/web/app?cmd=ls+/", 200, "c1 ran ls|/"},
		{"run by uid", b.config, "POST", "/run/default/web/u1/app?cmd=ls", 200, "c1 ran ls"},
		{"run, another uid", b.config, "POST", "/run/default/web/u2/app?cmd=ls", 404, "pod does not exist"},
		{"run, no container", b.config, "POST", "/run/default/web/late?cmd=ls", 500, `container not found ("late")`},
		{"exec without streams", b.config, "POST", "/exec/default/web/app?command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"exec, no pod", b.config, "POST", "/exec/default/nope/app?command=ls&output=1", 404, "pod does not exist"},
		{"attach, no container", b.config, "POST", "/attach/default/web/late?output=1", 500, "container late not found in pod web_default"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, body := b.call(t, tt.config, tt.method, tt.path)
			if code != tt.code || tt.body != "" && body != tt.body {
				t.Errorf("%d %q, want %d %q", code, body, tt.code, tt.body)
			}
		})
	}
	// Somebody else's CA does not count.
	stranger := newAuthority(t)
	client, err := rest.HTTPClientFor(b.as(stranger.client(t, "kube-apiserver-kubelet-client")))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Get(b.config.Host + "/healthz"); err == nil {
		resp.Body.Close()
		t.Errorf("a stranger got %s", resp.Status)
	}
}

func TestPodsAndStats(t *testing.T) {
	b := start(t)
	for path, check := range map[string]func(v1.Pod) bool{
		"/pods":         func(p v1.Pod) bool { return p.Name == "web" && len(p.Status.ContainerStatuses) == 2 },
		"/runningpods/": func(p v1.Pod) bool { return p.UID == "u1" && p.Spec.Containers[0].Image == "busybox" },
	} {
		var list v1.PodList
		_, body := b.call(t, b.config, "GET", path)
		if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 || !check(list.Items[0]) {
			t.Errorf("%s: %s (%v)", path, body, err)
		}
	}
	var summary stats.Summary
	_, body := b.call(t, b.config, "GET", "/stats/summary")
	if err := json.Unmarshal([]byte(body), &summary); err != nil {
		t.Fatal(err)
	}
	if p := summary.Pods[0]; p.PodRef.Name != "web" || *p.CPU.UsageCoreNanoSeconds != 2e9 || *p.Containers[0].Memory.WorkingSetBytes != 4096 || p.Containers[0].StartTime.IsZero() {
		t.Errorf("summary %s", body)
	}
	if n := summary.Node; n.NodeName != "n1" || *n.CPU.UsageCoreNanoSeconds == 0 || *n.Memory.WorkingSetBytes == 0 || n.StartTime.IsZero() {
		t.Errorf("summary %s", body)
	}
	_, body = b.call(t, b.config, "GET", "/metrics/resource")
	for _, want := range []string{`container_cpu_usage_seconds_total{container="app",namespace="default",pod="web"} 2 `, "node_memory_working_set_bytes ", "resource_scrape_error 0"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if code, body := b.call(t, b.config, "GET", "/metrics"); code != 200 || !strings.Contains(body, "# TYPE") {
		t.Errorf("/metrics: %d %.200s", code, body)
	}
}

func TestShutdownEndsStreamsAndLogs(t *testing.T) {
	b := start(t)
	if err := os.WriteFile(b.engine.logPath, []byte("2024-01-01T00:00:00.5Z stdout F hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var out bytes.Buffer
	started := make(chan struct{}, 2)
	wg.Go(func() {
		_ = b.exec(context.Background(), spdyExec, "exec", []string{"hang"}, nil, &notify{w: &out, first: started})
	})
	wg.Go(func() {
		client, err := rest.HTTPClientFor(b.config)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := client.Get(b.config.Host + "/containerLogs/default/web/app?follow=true")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		started <- struct{}{}
		_, _ = io.Copy(io.Discard, resp.Body)
	})
	<-started
	<-started
	begin := time.Now()
	b.stop()
	wg.Wait()
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
}

// notify tells when the first bytes are written.
type notify struct {
	w     io.Writer
	once  sync.Once
	first chan<- struct{}
}

func (n *notify) Write(b []byte) (int, error) {
	n.once.Do(func() { n.first <- struct{}{} })
	return n.w.Write(b)
}
