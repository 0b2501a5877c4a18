package containerconfig

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
)

// ParseResolvConf reads a resolv.conf: nameservers add up, the last search line counts, and the last of each option.
// It reads 10 MB at most.
func ParseResolvConf(r io.Reader) (*runtimeapi.DNSConfig, error) {
	dns := &runtimeapi.DNSConfig{}
	scanner := bufio.NewScanner(io.LimitReader(r, 10<<20))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Servers = append(dns.Servers, fields[1])
		case "search":
			dns.Searches = nil
			for _, domain := range fields[1:] {
				if domain != "." {
					dns.Searches = append(dns.Searches, strings.TrimSuffix(domain, "."))
				}
			}
		case "options":
			for _, option := range fields[1:] {
				dns.Options = setOption(dns.Options, option)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot read resolv.conf: %w", err)
	}
	return dns, nil
}

// setOption replaces the option of the same name, or else adds it.
func setOption(options []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	for i, old := range options {
		if oldName, _, _ := strings.Cut(old, ":"); oldName == name {
			options[i] = option
			return options
		}
	}
	return append(options, option)
}

// dns follows the Pod's policy (pkg/kubelet/network/dns). Where the policy asks for the cluster's DNS and there is none,
// the node's is used, with a warning.
func (n *Node) dns(pod *v1.Pod) (*runtimeapi.DNSConfig, []Warning) {
	var warnings []Warning
	dns := &runtimeapi.DNSConfig{}
	switch policy := pod.Spec.DNSPolicy; {
	case policy == v1.DNSNone:
	case policy == v1.DNSDefault, policy == v1.DNSClusterFirst && pod.Spec.HostNetwork:
		dns = n.hostDNS()
	case len(n.ClusterDNS) > 0:
		dns.Servers = slices.Clone(n.ClusterDNS)
		dns.Searches = n.clusterSearches(pod.Namespace)
		dns.Options = []string{"ndots:5"}
	default:
		warnings = append(warnings, Warning{"MissingClusterDNS", fmt.Sprintf(
			"pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
			format.Pod(pod), v1.DNSClusterFirst, v1.DNSDefault)})
		dns = n.hostDNS()
	}
	if own := pod.Spec.DNSConfig; own != nil {
		dns.Servers = unique(append(dns.Servers, own.Nameservers...))
		dns.Searches = unique(append(dns.Searches, own.Searches...))
		for _, option := range own.Options {
			text := option.Name
			if option.Value != nil && *option.Value != "" {
				text += ":" + *option.Value
			}
			dns.Options = setOption(dns.Options, text)
		}
	}
	return dns, append(warnings, limitDNS(dns)...)
}

// hostDNS is the node's own configuration. With none, lookups go to the Pod itself, which is to say nowhere.
func (n *Node) hostDNS() *runtimeapi.DNSConfig {
	if n.HostDNS != nil {
		return &runtimeapi.DNSConfig{
			Servers:  slices.Clone(n.HostDNS.Servers),
			Searches: slices.Clone(n.HostDNS.Searches),
			Options:  slices.Clone(n.HostDNS.Options),
		}
	}
	dns := &runtimeapi.DNSConfig{Searches: []string{"."}}
	for _, ip := range n.HostIPs {
		if address, err := netip.ParseAddr(ip); err == nil && address.Is6() {
			dns.Servers = append(dns.Servers, "::1")
		} else {
			dns.Servers = append(dns.Servers, "127.0.0.1")
		}
	}
	if len(dns.Servers) == 0 {
		dns.Servers = []string{"127.0.0.1"}
	}
	return dns
}

func (n *Node) clusterSearches(namespace string) []string {
	var searches []string
	if domain := n.ClusterDomain; domain != "" {
		searches = []string{namespace + ".svc." + domain, "svc." + domain, domain}
	}
	if n.HostDNS != nil {
		searches = append(searches, n.HostDNS.Searches...)
	}
	return unique(searches)
}

func unique(list []string) []string {
	var result []string
	for _, s := range list {
		if !slices.Contains(result, s) {
			result = append(result, s)
		}
	}
	return result
}

// limitDNS cuts off what resolvers do not stand.
func limitDNS(dns *runtimeapi.DNSConfig) (warnings []Warning) {
	if len(dns.Servers) > corevalidation.MaxDNSNameservers {
		dns.Servers = dns.Servers[:corevalidation.MaxDNSNameservers]
		warnings = append(warnings, Warning{"DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " +
			strings.Join(dns.Servers, " ")})
	}
	all := dns.Searches
	searches := all[:min(len(all), corevalidation.MaxDNSSearchPaths)]
	searches = slices.DeleteFunc(slices.Clone(searches), func(domain string) bool { return len(domain) > validation.DNS1123SubdomainMaxLength })
	for len(strings.Join(searches, " ")) > corevalidation.MaxDNSSearchListChars {
		searches = searches[:len(searches)-1]
	}
	if dns.Searches = searches; len(searches) < len(all) {
		warnings = append(warnings, Warning{"DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " +
			strings.Join(searches, " ")})
	}
	return warnings
}
