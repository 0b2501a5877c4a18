package admit

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctl returns the lowest kernel on which a sysctl is namespaced and isolated from other Pods
// ("" means every kernel), and whether there is one at all (pkg/kubelet/sysctl/safe_sysctls.go).
func safeSysctl(name string) (kernel string, safe bool) {
	switch name {
	case "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
		"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start":
		return "", true
	case "net.ipv4.ip_local_reserved_ports":
		return "3.16", true
	case "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes":
		return "4.5", true
	case "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_notsent_lowat":
		return "4.6", true
	case "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle":
		return "4.15", true
	}
	return "", false
}

// sysctls refuses kernel parameters that are not allowed, or that would change the host because the
// Pod shares the namespace they belong to.
func sysctls(pod *v1.Pod, opts Options) *refusal {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if err := allowSysctl(sysctl.NormalizeName(s.Name), pod, opts); err != nil {
			return &refusal{ReasonSysctlForbidden, fmt.Sprintf("forbidden sysctl: %v", err)}
		}
	}
	return nil
}

func allowSysctl(name string, pod *v1.Pod, opts Options) error {
	if !listed(name, opts) {
		return fmt.Errorf("%q not allowlisted", name)
	}
	ns, _, _ := sysctl.GetNamespace(name)
	shared := map[sysctl.Namespace]bool{
		sysctl.IPCNamespace:  pod.Spec.HostIPC,
		sysctl.NetNamespace:  pod.Spec.HostNetwork,
		sysctl.UserNamespace: pod.Spec.HostUsers == nil || *pod.Spec.HostUsers,
	}
	if shared[ns] {
		return fmt.Errorf("%q not allowed with host %s enabled", name, ns)
	}
	return nil
}

func listed(name string, opts Options) bool {
	if kernel, safe := safeSysctl(name); safe {
		if kernel == "" || opts.Kernel != nil && opts.Kernel.AtLeast(version.MustParseGeneric(kernel)) {
			return true
		}
	}
	for _, pattern := range opts.AllowedUnsafeSysctls {
		// What no namespace isolates stays forbidden whatever the configuration says.
		ns, known, prefix := sysctl.GetNamespace(pattern)
		if ns == sysctl.UnknownNamespace {
			continue
		}
		if name == known || prefix && strings.HasPrefix(name, known) {
			return true
		}
	}
	return false
}
