package containerconfig

import (
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestDNS(t *testing.T) {
	host := &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"rotate"}}
	for name, test := range map[string]struct {
		change                     func(*Node)
		spec                       v1.PodSpec
		servers, searches, options string
		warning                    string
	}{
		"node's": {spec: v1.PodSpec{DNSPolicy: v1.DNSDefault}, servers: "192.0.2.53", searches: "example.org", options: "rotate"},
		"cluster": {change: func(n *Node) { n.ClusterDNS = []string{"10.96.0.10"} }, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst},
			servers: "10.96.0.10", searches: "ns.svc.cluster.local svc.cluster.local cluster.local example.org", options: "ndots:5"},
		"cluster, host network": {change: func(n *Node) { n.ClusterDNS = []string{"10.96.0.10"} }, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true},
			servers: "192.0.2.53", searches: "example.org", options: "rotate"},
		"cluster without one": {spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, servers: "192.0.2.53", searches: "example.org", options: "rotate",
			warning: `MissingClusterDNS: pod: "p_ns(u)". kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.`},
		"none, own": {spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.1"}, Searches: []string{"s"},
			Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "edns0"}}}}, servers: "1.1.1.1", searches: "s", options: "ndots:2 edns0"},
		"own option wins": {spec: v1.PodSpec{DNSPolicy: v1.DNSDefault, DNSConfig: &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "rotate", Value: new("1")}}}},
			servers: "192.0.2.53", searches: "example.org", options: "rotate:1"},
		"node has none": {change: func(n *Node) { n.HostDNS = nil }, spec: v1.PodSpec{DNSPolicy: v1.DNSDefault}, servers: "127.0.0.1 ::1", searches: "."},
		"too many": {spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}},
			servers: "1.1.1.1 2.2.2.2 3.3.3.3",
			warning: "DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"},
		"too long": {spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Searches: []string{strings.Repeat("a", 254), "b"}}}, searches: "b",
			warning: "DNSConfigForming: Search Line limits were exceeded, some search paths have been omitted, the applied search line is: b"},
	} {
		t.Run(name, func(t *testing.T) {
			node := testNode()
			node.HostDNS = host
			if test.change != nil {
				test.change(node)
			}
			pod := &v1.Pod{Spec: test.spec}
			pod.Name, pod.Namespace, pod.UID = "p", "ns", "u"
			dns, warnings := node.dns(pod)
			for what, pair := range map[string][2]string{
				"servers":  {strings.Join(dns.Servers, " "), test.servers},
				"searches": {strings.Join(dns.Searches, " "), test.searches},
				"options":  {strings.Join(dns.Options, " "), test.options},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %q, want %q", what, pair[0], pair[1])
				}
			}
			var got string
			for _, warning := range warnings {
				got += warning.Reason + ": " + warning.Message
			}
			if got != test.warning {
				t.Errorf("warnings %q, want %q", got, test.warning)
			}
		})
	}
	if host.Servers[0] != "192.0.2.53" || len(host.Options) != 1 || host.Options[0] != "rotate" {
		t.Errorf("the node's configuration was changed: %v", host)
	}
}

func TestParseResolvConf(t *testing.T) {
	got, err := ParseResolvConf(strings.NewReader("# comment\nnameserver 1.1.1.1\n nameserver 2.2.2.2 \nsearch a.\nsearch b. . c\noptions ndots:1 rotate\noptions ndots:3\nnameserver\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"1.1.1.1", "2.2.2.2"}, {"b", "c"}, {"ndots:3", "rotate"}}
	if !reflect.DeepEqual([][]string{got.Servers, got.Searches, got.Options}, want) {
		t.Errorf("got %v", got)
	}
}
