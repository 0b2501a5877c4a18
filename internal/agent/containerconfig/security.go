package containerconfig

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	runtimeutil "k8s.io/kubernetes/pkg/kubelet/kuberuntime/util"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
	"k8s.io/kubernetes/pkg/security/apparmor"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// imageUser is who the image's processes run as: a number, or else a name, or else root.
func imageUser(image *runtimeapi.Image) (uid *int64, name string) {
	switch {
	case image.GetUid() != nil:
		return &image.Uid.Value, ""
	case image.GetUsername() != "":
		return nil, image.Username
	}
	return new(int64), ""
}

// verifyNonRoot refuses a container that must not run as root and will, or may.
func verifyNonRoot(pod *v1.Pod, container *v1.Container, image *runtimeapi.Image) error {
	effective := securitycontext.DetermineEffectiveSecurityContext(pod, container)
	if !isTrue(effective.RunAsNonRoot) {
		return nil
	}
	who := fmt.Sprintf("(pod: %q, container: %s)", format.Pod(pod), container.Name)
	if effective.RunAsUser != nil {
		if *effective.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", who)
		}
		return nil
	}
	uid, name := imageUser(image)
	switch {
	case uid == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, who)
	case *uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", who)
	}
	if problems := validation.IsValidUserID(*uid); len(problems) > 0 {
		return fmt.Errorf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s %s",
			*uid, math.MaxInt32, strings.Join(problems, "; "), who)
	}
	return nil
}

func (n *Node) securityContext(pod *v1.Pod, container *v1.Container, image *runtimeapi.Image) (*runtimeapi.LinuxContainerSecurityContext, error) {
	effective := securitycontext.DetermineEffectiveSecurityContext(pod, container)
	result := &runtimeapi.LinuxContainerSecurityContext{
		Capabilities:       capabilities(effective.Capabilities),
		SelinuxOptions:     selinuxOptions(effective.SELinuxOptions),
		Privileged:         isTrue(effective.Privileged),
		ReadonlyRootfs:     isTrue(effective.ReadOnlyRootFilesystem),
		NoNewPrivs:         securitycontext.AddNoNewPrivileges(effective),
		MaskedPaths:        securitycontext.ConvertToRuntimeMaskedPaths(effective.ProcMount),
		ReadonlyPaths:      securitycontext.ConvertToRuntimeReadonlyPaths(effective.ProcMount),
		NamespaceOptions:   namespaces(pod),
		SupplementalGroups: supplementalGroups(pod.Spec.SecurityContext),
	}
	if effective.RunAsUser != nil {
		result.RunAsUser = &runtimeapi.Int64Value{Value: *effective.RunAsUser}
	} else if uid, name := imageUser(image); uid != nil {
		result.RunAsUser = &runtimeapi.Int64Value{Value: *uid}
	} else {
		result.RunAsUsername = name
	}
	if effective.RunAsGroup != nil {
		result.RunAsGroup = &runtimeapi.Int64Value{Value: *effective.RunAsGroup}
	}
	var err error
	if result.Seccomp, err = n.seccomp(pod, container); err != nil {
		return nil, err
	}
	if result.Apparmor, result.ApparmorProfile, err = appArmor(pod, container); err != nil {
		return nil, err
	}
	if result.SupplementalGroupsPolicy, err = groupsPolicy(pod.Spec.SecurityContext); err != nil {
		return nil, err
	}
	return result, nil
}

func namespaces(pod *v1.Pod) *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{
		Ipc:     runtimeutil.IpcNamespaceForPod(pod),
		Network: runtimeutil.NetworkNamespaceForPod(pod),
		Pid:     runtimeutil.PidNamespaceForPod(pod),
	}
}

func supplementalGroups(security *v1.PodSecurityContext) []int64 {
	if security == nil {
		return nil
	}
	var groups []int64
	if security.FSGroup != nil {
		groups = append(groups, *security.FSGroup)
	}
	return append(groups, security.SupplementalGroups...)
}

func groupsPolicy(security *v1.PodSecurityContext) (runtimeapi.SupplementalGroupsPolicy, error) {
	if security == nil || security.SupplementalGroupsPolicy == nil {
		return runtimeapi.SupplementalGroupsPolicy_Merge, nil
	}
	value, ok := runtimeapi.SupplementalGroupsPolicy_value[string(*security.SupplementalGroupsPolicy)]
	if !ok {
		return 0, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *security.SupplementalGroupsPolicy)
	}
	return runtimeapi.SupplementalGroupsPolicy(value), nil
}

func capabilities(caps *v1.Capabilities) *runtimeapi.Capability {
	if caps == nil {
		return nil
	}
	result := &runtimeapi.Capability{}
	for _, add := range caps.Add {
		result.AddCapabilities = append(result.AddCapabilities, string(add))
	}
	for _, drop := range caps.Drop {
		result.DropCapabilities = append(result.DropCapabilities, string(drop))
	}
	return result
}

func selinuxOptions(options *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if options == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: options.User, Role: options.Role, Type: options.Type, Level: options.Level}
}

// seccomp prefers the container's profile to the Pod's; with neither, nothing is confined, as is upstream's default.
func (n *Node) seccomp(pod *v1.Pod, container *v1.Container) (*runtimeapi.SecurityProfile, error) {
	var profile *v1.SeccompProfile
	if pod.Spec.SecurityContext != nil {
		profile = pod.Spec.SecurityContext.SeccompProfile
	}
	if container.SecurityContext != nil && container.SecurityContext.SeccompProfile != nil {
		profile = container.SecurityContext.SeccompProfile
	}
	if profile != nil {
		switch profile.Type {
		case v1.SeccompProfileTypeRuntimeDefault:
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
		case v1.SeccompProfileTypeLocalhost:
			if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
				return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost.") //nolint:staticcheck // upstream's text
			}
			return &runtimeapi.SecurityProfile{
				ProfileType:  runtimeapi.SecurityProfile_Localhost,
				LocalhostRef: filepath.Join(n.SeccompRoot, *profile.LocalhostProfile),
			}, nil
		}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
}

// appArmor returns the profile in CRI's form and in the older one that some runtimes still read.
func appArmor(pod *v1.Pod, container *v1.Container) (*runtimeapi.SecurityProfile, string, error) {
	profile := apparmor.GetProfile(pod, container)
	if profile == nil {
		return nil, "", nil
	}
	switch profile.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, v1.DeprecatedAppArmorBetaProfileRuntimeDefault, nil
	case v1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, v1.DeprecatedAppArmorBetaProfileNameUnconfined, nil
	case v1.AppArmorProfileTypeLocalhost:
		if profile.LocalhostProfile == nil {
			return nil, "", errors.New("missing localhost apparmor profile name")
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile},
			v1.DeprecatedAppArmorBetaProfileNamePrefix + *profile.LocalhostProfile, nil
	}
	return nil, "", fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
}
