// Package hosts composes the content of the /etc/hosts file that peapod manages for a Pod's containers.
//
// The package is pure: it never touches the file system. Every function's output matches what the upstream
// kubelet writes, byte for byte (pkg/kubelet/kubelet_pods.go), because people and tests compare it.
package hosts

import (
	"bytes"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// ContainerPath is where the file is mounted in a container.
const ContainerPath = "/etc/hosts"

const preamble = "# Kubernetes-managed hosts file.\n" +
	"127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::0\tip6-localnet\n" +
	"fe00::0\tip6-mcastprefix\n" +
	"fe00::1\tip6-allnodes\n" +
	"fe00::2\tip6-allrouters\n"

// Managed returns the file of a Pod on the Pod network. There is a line for each of podIPs; domain is the Pod's
// subdomain within the cluster (subdomain.namespace.svc.cluster-domain), empty if it has none.
func Managed(podIPs []string, hostname, domain string, aliases []v1.HostAlias) []byte {
	var b bytes.Buffer
	b.WriteString(preamble)
	names := hostname
	if domain != "" {
		names = hostname + "." + domain + "\t" + hostname
	}
	for _, ip := range podIPs {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	writeAliases(&b, aliases)
	return b.Bytes()
}

// HostNetwork returns the file of a Pod that shares the node's network: the node's own file and the Pod's aliases.
func HostNetwork(nodeFile []byte, aliases []v1.HostAlias) []byte {
	var b bytes.Buffer
	b.WriteString("# Kubernetes-managed hosts file (host network).\n")
	b.Write(nodeFile)
	writeAliases(&b, aliases)
	return b.Bytes()
}

// writeAliases puts all names of an address on one line, as the kubelet does.
func writeAliases(b *bytes.Buffer, aliases []v1.HostAlias) {
	if len(aliases) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, alias := range aliases {
		fmt.Fprintf(b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
}
