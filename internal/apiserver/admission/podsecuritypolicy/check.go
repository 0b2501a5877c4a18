package podsecuritypolicy

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/securitycontext"
	"k8s.io/utils/ptr"

	pspregistry "peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// check says what in a Pod the policy does not allow. Texts are upstream's.
func check(p *v1beta1.PodSecurityPolicy, pod *api.Pod) field.ErrorList {
	s := &p.Spec
	sc := securitycontext.NewPodSecurityContextAccessor(pod.Spec.SecurityContext)
	path := field.NewPath("spec", "securityContext")

	var fsGroups []int64
	if id := sc.FSGroup(); id != nil {
		fsGroups = []int64{*id}
	}
	errs := checkGroups(path.Child("fsGroup"), s.FSGroup.Rule, s.FSGroup.Ranges, fsGroups)
	errs = append(errs, checkGroups(path.Child("supplementalGroups"), s.SupplementalGroups.Rule, s.SupplementalGroups.Ranges,
		sc.SupplementalGroups())...)
	errs = append(errs, checkSeccomp(p, path.Child("seccompProfile"), sc.SeccompProfile())...)
	errs = append(errs, checkSELinux(s, path.Child("seLinuxOptions"), sc.SELinuxOptions())...)
	if !s.HostNetwork && pod.Spec.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), true, "Host network is not allowed to be used"))
	}
	if !s.HostPID && pod.Spec.HostPID {
		errs = append(errs, field.Invalid(path.Child("hostPID"), true, "Host PID is not allowed to be used"))
	}
	if !s.HostIPC && pod.Spec.HostIPC {
		errs = append(errs, field.Invalid(path.Child("hostIPC"), true, "Host IPC is not allowed to be used"))
	}
	errs = append(errs, checkSysctls(s, path.Child("sysctls"), pod)...)
	errs = append(errs, checkVolumes(s, pod)...)
	errs = append(errs, checkRuntimeClass(s, pod.Spec.RuntimeClassName)...)
	pods.VisitContainersWithPath(&pod.Spec, field.NewPath("spec"), func(c *api.Container, path *field.Path) bool {
		errs = append(errs, checkContainer(p, pod, c, path)...)
		return true
	})
	return errs
}

func checkContainer(p *v1beta1.PodSecurityPolicy, pod *api.Pod, c *api.Container, at *field.Path) field.ErrorList {
	s := &p.Spec
	sc := securitycontext.NewEffectiveContainerSecurityContextAccessor(
		securitycontext.NewPodSecurityContextAccessor(pod.Spec.SecurityContext),
		securitycontext.NewContainerSecurityContextMutator(c.SecurityContext),
	)
	path := at.Child("securityContext")

	errs := checkRunAsUser(s, path, sc.RunAsNonRoot(), sc.RunAsUser())
	if s.RunAsGroup != nil {
		var groups []int64
		if id := sc.RunAsGroup(); id != nil {
			groups = []int64{*id}
		}
		errs = append(errs, checkGroups(path.Child("runAsGroup"), s.RunAsGroup.Rule, s.RunAsGroup.Ranges, groups)...)
	}
	errs = append(errs, checkSELinux(s, path.Child("seLinuxOptions"), sc.SELinuxOptions())...)
	errs = append(errs, checkAppArmor(p, path.Child("appArmorProfile"), effectiveAppArmor(pod, c))...)
	errs = append(errs, checkSeccomp(p, path.Child("seccompProfile"), effectiveSeccomp(pod, c))...)
	if !s.Privileged && ptr.Deref(sc.Privileged(), false) {
		errs = append(errs, field.Invalid(path.Child("privileged"), true, "Privileged containers are not allowed"))
	}
	mounts := s.AllowedProcMountTypes
	if len(mounts) == 0 {
		mounts = []corev1.ProcMountType{corev1.DefaultProcMount}
	}
	if !slices.Contains(mounts, corev1.ProcMountType(sc.ProcMount())) {
		errs = append(errs, field.Invalid(path.Child("procMount"), sc.ProcMount(), "ProcMountType is not allowed"))
	}
	errs = append(errs, checkCapabilities(s, path.Child("capabilities"), sc.Capabilities())...)
	errs = append(errs, checkHostPorts(s, at, pod, c)...)
	if s.ReadOnlyRootFilesystem {
		if is := sc.ReadOnlyRootFilesystem(); is == nil {
			errs = append(errs, field.Invalid(path.Child("readOnlyRootFilesystem"), is,
				"ReadOnlyRootFilesystem may not be nil and must be set to true"))
		} else if !*is {
			errs = append(errs, field.Invalid(path.Child("readOnlyRootFilesystem"), *is, "ReadOnlyRootFilesystem must be set to true"))
		}
	}
	if is := sc.AllowPrivilegeEscalation(); !ptr.Deref(s.AllowPrivilegeEscalation, true) && ptr.Deref(is, true) {
		errs = append(errs, field.Invalid(path.Child("allowPrivilegeEscalation"), is,
			"Allowing privilege escalation for containers is not allowed"))
	}
	return errs
}

// checkHostPorts wants each port of the host to be in a range, whose ends belong to it. In the host's network a container
// port is one of the host's: API defaulting says so for new Pods, and here it is not relied on.
func checkHostPorts(s *v1beta1.PodSecurityPolicySpec, at *field.Path, pod *api.Pod, c *api.Container) field.ErrorList {
	var errs field.ErrorList
	for _, p := range c.Ports {
		port := p.HostPort
		if port == 0 && pod.Spec.HostNetwork {
			port = p.ContainerPort
		}
		if port > 0 && !slices.ContainsFunc(s.HostPorts, func(r v1beta1.HostPortRange) bool { return r.Min <= port && port <= r.Max }) {
			errs = append(errs, field.Invalid(at.Child("hostPort"), port,
				fmt.Sprintf("Host port %d is not allowed to be used. Allowed ports: [%s]", port, portRanges(s.HostPorts))))
		}
	}
	return errs
}

func portRanges(ranges []v1beta1.HostPortRange) string {
	texts := make([]string, 0, len(ranges))
	for _, r := range ranges {
		if r.Min == r.Max {
			texts = append(texts, fmt.Sprint(r.Min))
		} else {
			texts = append(texts, fmt.Sprintf("%d-%d", r.Min, r.Max))
		}
	}
	return strings.Join(texts, ",")
}

func checkRunAsUser(s *v1beta1.PodSecurityPolicySpec, path *field.Path, nonRoot *bool, id *int64) field.ErrorList {
	switch rule := s.RunAsUser.Rule; {
	case rule == v1beta1.MustRunAs && id == nil:
		return field.ErrorList{field.Required(path.Child("runAsUser"), "")}
	case rule == v1beta1.MustRunAs && !inRanges(*id, s.RunAsUser.Ranges):
		return field.ErrorList{field.Invalid(path.Child("runAsUser"), *id, fmt.Sprintf("must be in the ranges: %v", s.RunAsUser.Ranges))}
	case rule != v1beta1.MustRunAsNonRoot:
		return nil
	case nonRoot == nil && id == nil:
		return field.ErrorList{field.Required(path.Child("runAsNonRoot"), "must be true")}
	case nonRoot != nil && !*nonRoot:
		return field.ErrorList{field.Invalid(path.Child("runAsNonRoot"), false, "must be true")}
	case id != nil && *id == 0:
		return field.ErrorList{field.Invalid(path.Child("runAsUser"), *id, "running with the root UID is forbidden")}
	}
	return nil
}

func checkGroups(path *field.Path, rule v1beta1.Rule, ranges []v1beta1.IDRange, ids []int64) field.ErrorList {
	if rule != v1beta1.MustRunAs && rule != v1beta1.MayRunAs {
		return nil
	}
	if rule == v1beta1.MustRunAs && len(ids) == 0 {
		return field.ErrorList{field.Invalid(path, ids, "unable to validate empty groups against required ranges")}
	}
	var errs field.ErrorList
	for _, id := range ids {
		if !inRanges(id, ranges) {
			errs = append(errs, field.Invalid(path, ids, fmt.Sprintf("group %d must be in the ranges: %v", id, ranges)))
		}
	}
	return errs
}

func inRanges(id int64, ranges []v1beta1.IDRange) bool {
	return slices.ContainsFunc(ranges, func(r v1beta1.IDRange) bool { return r.Min <= id && id <= r.Max })
}

func checkCapabilities(s *v1beta1.PodSecurityPolicySpec, path *field.Path, c *api.Capabilities) field.ErrorList {
	if c == nil {
		if len(s.DefaultAddCapabilities) == 0 && len(s.RequiredDropCapabilities) == 0 {
			return nil
		}
		return field.ErrorList{field.Invalid(path, c, "required capabilities are not set on the securityContext")}
	}
	if slices.Contains(s.AllowedCapabilities, v1beta1.All) {
		return nil
	}
	var errs field.ErrorList
	for _, add := range c.Add {
		if c := corev1.Capability(add); !slices.Contains(s.DefaultAddCapabilities, c) && !slices.Contains(s.AllowedCapabilities, c) {
			errs = append(errs, field.Invalid(path.Child("add"), string(add), "capability may not be added"))
		}
	}
	for _, drop := range s.RequiredDropCapabilities {
		if !slices.Contains(c.Drop, api.Capability(drop)) {
			errs = append(errs, field.Invalid(path.Child("drop"), c.Drop,
				fmt.Sprintf("%s is required to be dropped but was not found", drop)))
		}
	}
	return errs
}

// safeSysctls are those that Pods may set without a policy naming them: they are namespaced, and isolated from other Pods
// (pkg/kubelet/sysctl/safe_sysctls.go). Whether a node's kernel is new enough is for the node to say.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

func checkSysctls(s *v1beta1.PodSecurityPolicySpec, path *field.Path, pod *api.Pod) field.ErrorList {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	var errs field.ErrorList
	for i, ctl := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(ctl.Name)
		matches := func(pattern string) bool { return pspregistry.MatchesSysctl(pattern, name) }
		switch {
		case slices.ContainsFunc(s.ForbiddenSysctls, matches):
			errs = append(errs, field.Forbidden(path.Index(i), fmt.Sprintf("sysctl %q is not allowed", ctl.Name)))
		case slices.Contains(safeSysctls, name), slices.ContainsFunc(s.AllowedUnsafeSysctls, matches):
		default:
			errs = append(errs, field.Forbidden(path.Index(i), fmt.Sprintf("unsafe sysctl %q is not allowed", ctl.Name)))
		}
	}
	return errs
}

func checkRuntimeClass(s *v1beta1.PodSecurityPolicySpec, name *string) field.ErrorList {
	if s.RuntimeClass == nil || name == nil {
		return nil
	}
	allowed := s.RuntimeClass.AllowedRuntimeClassNames
	if slices.Contains(allowed, v1beta1.All) || slices.Contains(allowed, *name) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "runtimeClassName"), *name, "")}
}
