package ocispec

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
)

// namespaces makes the container's own mount namespace (and cgroup namespace on version 2) and joins the sandbox'.
func namespaces(spec *specs.Spec, in *Input) error {
	option := in.namespaceOption()
	if o := option.GetUsernsOptions(); o != nil && o.GetMode() == runtimeapi.NamespaceMode_POD {
		return errors.New("user namespaces are not supported")
	}
	all := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		mode runtimeapi.NamespaceMode
		path string
	}{
		{specs.NetworkNamespace, option.GetNetwork(), in.Namespaces.Net},
		{specs.IPCNamespace, option.GetIpc(), in.Namespaces.IPC},
		{specs.PIDNamespace, option.GetPid(), in.Namespaces.PID},
	} {
		switch {
		case ns.mode == runtimeapi.NamespaceMode_NODE:
		case ns.mode == runtimeapi.NamespaceMode_CONTAINER:
			all = append(all, specs.LinuxNamespace{Type: ns.kind})
		case ns.path == "":
			return fmt.Errorf("the sandbox has no %s namespace to join", ns.kind)
		default:
			all = append(all, specs.LinuxNamespace{Type: ns.kind, Path: ns.path})
		}
	}
	if in.Namespaces.UTS != "" {
		all = append(all, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: in.Namespaces.UTS})
	}
	if in.CgroupMode == cgroup.V2 && !in.privileged() {
		all = append(all, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	spec.Linux.Namespaces = all
	return nil
}
