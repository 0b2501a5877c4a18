package containerconfig

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// Warning is something of a sandbox's configuration that the user should know; it makes a Warning event of the Pod.
type Warning struct{ Reason, Message string }

// Sandbox returns the message that runs a Pod's sandbox. The caller makes LogDirectory.
func (n *Node) Sandbox(pod *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, []Warning, error) {
	dns, warnings := n.dns(pod)
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:       podLabels(pod),
		Annotations:  pod.Annotations,
		DnsConfig:    dns,
		LogDirectory: n.LogDirectory(pod),
		PortMappings: portMappings(pod),
	}
	if !pod.Spec.HostNetwork {
		hostname, domain, err := n.Hostname(pod)
		if err != nil {
			return nil, nil, err
		}
		if config.Hostname, err = kernelHostname(hostname, domain, isTrue(pod.Spec.SetHostnameAsFQDN)); err != nil {
			return nil, nil, err
		}
	}
	var err error
	if config.Linux, err = n.linuxSandbox(pod); err != nil {
		return nil, nil, err
	}
	return config, warnings, nil
}

func (n *Node) linuxSandbox(pod *v1.Pod) (*runtimeapi.LinuxPodSandboxConfig, error) {
	resources, overhead := n.SandboxResources(pod)
	config := &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: n.CgroupParent(pod),
		Resources:    resources,
		Overhead:     overhead,
		Sysctls:      map[string]string{},
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Privileged:       kubecontainer.HasPrivilegedContainer(pod),
			NamespaceOptions: namespaces(pod),
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		},
	}
	security := pod.Spec.SecurityContext
	if security == nil {
		return config, nil
	}
	for _, sysctl := range security.Sysctls {
		config.Sysctls[sysctl.Name] = sysctl.Value
	}
	result := config.SecurityContext
	if security.RunAsUser != nil {
		result.RunAsUser = &runtimeapi.Int64Value{Value: *security.RunAsUser}
	}
	if security.RunAsGroup != nil {
		result.RunAsGroup = &runtimeapi.Int64Value{Value: *security.RunAsGroup}
	}
	result.SelinuxOptions = selinuxOptions(security.SELinuxOptions)
	result.SupplementalGroups = supplementalGroups(security)
	var err error
	result.SupplementalGroupsPolicy, err = groupsPolicy(security)
	return config, err
}

// portMappings lists all ports of the app containers; those without a host port are for the engine to know only.
func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for i := range pod.Spec.Containers {
		for _, port := range kubecontainer.MakePortMappings(klog.Background(), &pod.Spec.Containers[i]) {
			mappings = append(mappings, &runtimeapi.PortMapping{
				Protocol:      runtimeapi.Protocol(runtimeapi.Protocol_value[string(port.Protocol)]),
				ContainerPort: int32(port.ContainerPort),
				HostPort:      int32(port.HostPort),
				HostIp:        port.HostIP,
			})
		}
	}
	return mappings
}

// Hostname returns a Pod's host name and its domain in the cluster, empty if it has no subdomain. Both are for the
// hosts file, too.
func (n *Node) Hostname(pod *v1.Pod) (hostname, domain string, err error) {
	spec := &pod.Spec
	if spec.HostnameOverride != nil {
		if problems := validation.IsDNS1123Subdomain(*spec.HostnameOverride); len(problems) != 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *spec.HostnameOverride, strings.Join(problems, ";"))
		}
		hostname, err = truncateHostname(pod.Name, *spec.HostnameOverride)
		return hostname, "", err
	}
	hostname = pod.Name
	if spec.Hostname != "" {
		if problems := validation.IsDNS1123Label(spec.Hostname); len(problems) != 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", spec.Hostname, strings.Join(problems, ";"))
		}
		hostname = spec.Hostname
	}
	if hostname, err = truncateHostname(pod.Name, hostname); err != nil {
		return "", "", err
	}
	if spec.Subdomain != "" {
		if problems := validation.IsDNS1123Label(spec.Subdomain); len(problems) != 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", spec.Subdomain, strings.Join(problems, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", spec.Subdomain, pod.Namespace, n.ClusterDomain)
	}
	return hostname, domain, nil
}

// truncateHostname keeps what the kernel can hold and ends in neither - nor a dot.
func truncateHostname(pod, hostname string) (string, error) {
	const longest = 63
	if len(hostname) <= longest {
		return hostname, nil
	}
	truncated := strings.TrimRight(hostname[:longest], "-.")
	if truncated == "" {
		return "", fmt.Errorf("hostname for pod %q was invalid: %q", pod, hostname)
	}
	return truncated, nil
}

func kernelHostname(hostname, domain string, asFQDN bool) (string, error) {
	const longest = 64
	if domain == "" || !asFQDN {
		return hostname, nil
	}
	fqdn := hostname + "." + domain
	if len(fqdn) > longest {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, longest, len(fqdn))
	}
	return fqdn, nil
}
