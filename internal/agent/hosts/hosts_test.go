package hosts

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

const head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"

var aliases = []v1.HostAlias{
	{IP: "10.1.2.3", Hostnames: []string{"foo.remote", "bar.remote"}},
	{IP: "127.0.0.1", Hostnames: []string{"foo.local"}},
}

const aliasLines = "\n# Entries added by HostAliases.\n10.1.2.3\tfoo.remote\tbar.remote\n127.0.0.1\tfoo.local\n"

func TestManaged(t *testing.T) {
	for _, test := range []struct {
		name, hostname, domain string
		ips                    []string
		aliases                []v1.HostAlias
		want                   string
	}{
		{name: "plain", hostname: "web", ips: []string{"10.88.0.5"}, want: head + "10.88.0.5\tweb\n"},
		{name: "no address", hostname: "web", want: head},
		{name: "subdomain", hostname: "web", domain: "sub.default.svc.cluster.local", ips: []string{"10.88.0.5"},
			want: head + "10.88.0.5\tweb.sub.default.svc.cluster.local\tweb\n"},
		{name: "dual stack", hostname: "web", ips: []string{"10.88.0.5", "fd00::5"}, want: head + "10.88.0.5\tweb\nfd00::5\tweb\n"},
		{name: "aliases", hostname: "hostaliases-pod", ips: []string{"10.244.135.10"}, aliases: aliases,
			want: head + "10.244.135.10\thostaliases-pod\n" + aliasLines},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := string(Managed(test.ips, test.hostname, test.domain, test.aliases)); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

func TestHostNetwork(t *testing.T) {
	const node, header = "127.0.0.1 localhost\n", "# Kubernetes-managed hosts file (host network).\n"
	if got, want := string(HostNetwork([]byte(node), nil)), header+node; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := string(HostNetwork([]byte(node), aliases)), header+node+aliasLines; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
