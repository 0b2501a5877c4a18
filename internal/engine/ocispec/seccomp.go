package ocispec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxProfile bounds a Localhost profile, in bytes; the default one has 20 KiB.
const maxProfile = 4 << 20

// seccompFilter applies the profile: none when nothing is said (Unconfined), Docker's for RuntimeDefault, a file of the
// node for Localhost. Profiles depend on the capabilities, so this rule comes after them.
func seccompFilter(spec *specs.Spec, in *Input) (err error) {
	if in.privileged() {
		return nil
	}
	kind, path := seccompProfile(in.security())
	switch {
	case kind == runtimeapi.SecurityProfile_Unconfined:
	case kind == runtimeapi.SecurityProfile_RuntimeDefault && !in.Machine.Seccomp:
		in.Log.Warn("this kernel has no seccomp: the container runs without the default profile")
	case kind == runtimeapi.SecurityProfile_RuntimeDefault:
		spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	case !in.Machine.Seccomp:
		err = errors.New("seccomp is not supported")
	default:
		spec.Linux.Seccomp, err = localhostProfile(path, spec)
	}
	return err
}

func localhostProfile(path string, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", path, err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxProfile))
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", path, err)
	}
	profile, err := seccomp.LoadProfile(string(body), spec)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", path, err)
	}
	return profile, nil
}

// seccompProfile reads the field, or the deprecated string that older clients send.
func seccompProfile(sc *runtimeapi.LinuxContainerSecurityContext) (runtimeapi.SecurityProfile_ProfileType, string) {
	if p := sc.GetSeccomp(); p != nil {
		return p.GetProfileType(), strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
	}
	old := sc.GetSeccompProfilePath() //nolint:staticcheck // crictl and critest send it
	if path, ok := strings.CutPrefix(old, "localhost/"); ok {
		return runtimeapi.SecurityProfile_Localhost, path
	}
	if old == "runtime/default" || old == "docker/default" {
		return runtimeapi.SecurityProfile_RuntimeDefault, ""
	}
	return runtimeapi.SecurityProfile_Unconfined, ""
}
