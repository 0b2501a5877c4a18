package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCNI(t *testing.T) {
	needsRoot(t)
	c, dir := config(t), t.TempDir()
	c.CNIConfDir, c.CNIBinDirs = filepath.Join(dir, "net.d"), []string{dir}
	if err := os.Mkdir(c.CNIConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	calls := filepath.Join(dir, "calls")
	for name, text := range map[string]string{
		"net.d/10-podman.conflist": `{"cniVersion": "1.0.0", "name": "podman", "plugins": [{"type": "other"}]}`,
		"net.d/20-pods.conf":       `{"cniVersion": "1.0.0", "name": "pods", "type": "pretend", "capabilities": {"portMappings": true}}`,
		"pretend": fmt.Sprintf(`#!/bin/sh
{ echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS"; cat; echo; } >> %s
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "x"}], "ips": [{"address": "10.1.2.3/24", "interface": 0}]}'
`, calls),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	file := newNetNS(t)
	r, err := n.Setup(t.Context(), Pod{
		SandboxID: "s1", NetNS: file, Name: "web", Namespace: "default", UID: "u1", Ports: []PortMapping{{HostPort: 80, ContainerPort: 8080}},
	})
	if err != nil || fmt.Sprint(r.IPs) != "[10.1.2.3]" {
		t.Fatalf("Setup = %v, %v", r, err)
	}
	// The next daemon takes back what is no longer there.
	if n, err = New(c); err != nil {
		t.Fatal(err)
	}
	if err := n.Reconcile(t.Context(), []string{"s1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Teardown(t.Context(), "s1", file); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ADD s1 eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u1\n",
		`"portMappings":[{"containerPort":8080,"hostIP":"","hostPort":80,"protocol":"tcp"}]`,
		"DEL s1 eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the plugin was not called with %q:\n%s", want, b)
		}
	}
	if got := strings.Count(string(b), "DEL "); got != 1 {
		t.Errorf("%d DELs", got)
	}
}
