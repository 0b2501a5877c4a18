package ocispec

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sysctls sets those of the IPC namespace. The sandbox has set net.* in its network namespace when it made it. One that
// is in no namespace would change the node, which the kubelet refuses too (SysctlForbidden).
func sysctls(spec *specs.Spec, in *Input) error {
	for name, value := range in.Sandbox.GetLinux().GetSysctls() {
		name = strings.ReplaceAll(name, "/", ".")
		switch {
		case strings.HasPrefix(name, "net."):
			if in.namespaceOption().GetNetwork() == runtimeapi.NamespaceMode_NODE {
				return fmt.Errorf("sysctl %q is not allowed with the host's network", name)
			}
		case ofIPC(name):
			if in.namespaceOption().GetIpc() == runtimeapi.NamespaceMode_NODE {
				return fmt.Errorf("sysctl %q is not allowed with the host's IPC", name)
			}
			if spec.Linux.Sysctl == nil {
				spec.Linux.Sysctl = map[string]string{}
			}
			spec.Linux.Sysctl[name] = value
		default:
			return fmt.Errorf("sysctl %q is not in a namespace of the Pod", name)
		}
	}
	return nil
}

// ofIPC follows the kubelet's list of namespaced sysctls.
func ofIPC(name string) bool {
	return name == "kernel.sem" || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
		strings.HasPrefix(name, "fs.mqueue.")
}
