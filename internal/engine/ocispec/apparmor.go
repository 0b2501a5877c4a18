package ocispec

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// appArmor confines the container. RuntimeDefault (also when nothing is said) is the default profile of whichever other
// engine has loaded one, because loading needs apparmor_parser; without any, and where AppArmor is off, it is no profile.
func appArmor(spec *specs.Spec, in *Input) error {
	if in.privileged() {
		return nil
	}
	kind, name := appArmorProfile(in.security())
	switch {
	case kind == runtimeapi.SecurityProfile_Unconfined:
	case kind == runtimeapi.SecurityProfile_Localhost && in.Machine.AppArmor == nil:
		in.Log.Warn("AppArmor is off on this machine: the container runs without its profile", "profile", name)
	case kind == runtimeapi.SecurityProfile_Localhost && !in.Machine.AppArmor[name]:
		return fmt.Errorf("apparmor profile not found %s", name)
	case kind == runtimeapi.SecurityProfile_Localhost:
		spec.Process.ApparmorProfile = name
	default:
		for _, known := range []string{"cri-containerd.apparmor.d", "crio-default", "docker-default"} {
			if in.Machine.AppArmor[known] {
				spec.Process.ApparmorProfile = known
				return nil
			}
		}
	}
	return nil
}

// appArmorProfile reads the field, or the deprecated string that older clients send.
func appArmorProfile(sc *runtimeapi.LinuxContainerSecurityContext) (runtimeapi.SecurityProfile_ProfileType, string) {
	if p := sc.GetApparmor(); p != nil {
		return p.GetProfileType(), strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
	}
	old := sc.GetApparmorProfile() //nolint:staticcheck // crictl and critest send it
	if name, ok := strings.CutPrefix(old, "localhost/"); ok {
		return runtimeapi.SecurityProfile_Localhost, name
	}
	if old == "unconfined" {
		return runtimeapi.SecurityProfile_Unconfined, ""
	}
	return runtimeapi.SecurityProfile_RuntimeDefault, ""
}
