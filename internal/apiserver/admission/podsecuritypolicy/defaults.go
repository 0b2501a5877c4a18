package podsecuritypolicy

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	api "k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/securitycontext"
	"k8s.io/utils/ptr"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// apply returns the Pod with the policy's defaults, and what the policy does not allow in that.
func apply(p *v1beta1.PodSecurityPolicy, pod *api.Pod) (*api.Pod, field.ErrorList) {
	pod = pod.DeepCopy()
	setDefaults(p, pod)
	return pod, check(p, pod)
}

// setDefaults fills in what the Pod leaves open and the policy wants.
func setDefaults(p *v1beta1.PodSecurityPolicy, pod *api.Pod) {
	s := &p.Spec
	sc := securitycontext.NewPodSecurityContextMutator(pod.Spec.SecurityContext)
	if sc.SupplementalGroups() == nil {
		if id := firstID(s.SupplementalGroups.Rule, s.SupplementalGroups.Ranges); id != nil {
			sc.SetSupplementalGroups([]int64{*id})
		}
	}
	if sc.FSGroup() == nil {
		sc.SetFSGroup(firstID(s.FSGroup.Rule, s.FSGroup.Ranges))
	}
	if sc.SELinuxOptions() == nil {
		sc.SetSELinuxOptions(requiredSELinux(s))
	}
	if sc.SeccompProfile() == nil {
		sc.SetSeccompProfile(seccompProfile(p.Annotations[v1beta1.SeccompDefaultProfileAnnotation]))
	}
	pod.Spec.SecurityContext = sc.PodSecurityContext()
	if s.RuntimeClass != nil && pod.Spec.RuntimeClassName == nil {
		pod.Spec.RuntimeClassName = s.RuntimeClass.DefaultRuntimeClassName
	}
	podutil.VisitContainers(&pod.Spec, podutil.AllContainers, func(c *api.Container, _ podutil.ContainerType) bool {
		setContainerDefaults(p, pod, c)
		return true
	})
}

func setContainerDefaults(p *v1beta1.PodSecurityPolicy, pod *api.Pod, c *api.Container) {
	s := &p.Spec
	sc := securitycontext.NewEffectiveContainerSecurityContextMutator(
		securitycontext.NewPodSecurityContextAccessor(pod.Spec.SecurityContext),
		securitycontext.NewContainerSecurityContextMutator(c.SecurityContext),
	)
	if sc.RunAsUser() == nil {
		sc.SetRunAsUser(firstID(s.RunAsUser.Rule, s.RunAsUser.Ranges))
	}
	if sc.RunAsGroup() == nil && s.RunAsGroup != nil {
		sc.SetRunAsGroup(firstID(s.RunAsGroup.Rule, s.RunAsGroup.Ranges))
	}
	if sc.SELinuxOptions() == nil {
		sc.SetSELinuxOptions(requiredSELinux(s))
	}
	if sc.RunAsNonRoot() == nil && sc.RunAsUser() == nil && s.RunAsUser.Rule == v1beta1.MustRunAsNonRoot {
		sc.SetRunAsNonRoot(ptr.To(true)) // the node looks at the image's user
	}
	sc.SetCapabilities(capabilities(s, c))
	if s.ReadOnlyRootFilesystem && sc.ReadOnlyRootFilesystem() == nil {
		sc.SetReadOnlyRootFilesystem(ptr.To(true))
	}
	if s.DefaultAllowPrivilegeEscalation != nil && sc.AllowPrivilegeEscalation() == nil {
		sc.SetAllowPrivilegeEscalation(ptr.To(*s.DefaultAllowPrivilegeEscalation))
	}
	if !ptr.Deref(s.AllowPrivilegeEscalation, true) && sc.AllowPrivilegeEscalation() == nil {
		sc.SetAllowPrivilegeEscalation(ptr.To(false))
	}
	c.SecurityContext = sc.ContainerSecurityContext()

	if profile := appArmorProfile(p.Annotations[v1beta1.AppArmorDefaultProfileAnnotation]); profile != nil && effectiveAppArmor(pod, c) == nil {
		if c.SecurityContext == nil {
			c.SecurityContext = &api.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	}
}

// firstID is the ID of who names none, if the rule wants one.
func firstID(rule v1beta1.Rule, ranges []v1beta1.IDRange) *int64 {
	if rule != v1beta1.MustRunAs || len(ranges) == 0 {
		return nil
	}
	return ptr.To(ranges[0].Min)
}

func requiredSELinux(s *v1beta1.PodSecurityPolicySpec) *api.SELinuxOptions {
	if s.SELinux.Rule != v1beta1.MustRunAs || s.SELinux.SELinuxOptions == nil {
		return nil
	}
	o := &api.SELinuxOptions{}
	_ = corev1conversion.Convert_v1_SELinuxOptions_To_core_SELinuxOptions(s.SELinux.SELinuxOptions, o, nil) // copies four strings
	return o
}

// capabilities are a container's own, those that the policy adds unless the container drops them, and without those that it
// drops.
func capabilities(s *v1beta1.PodSecurityPolicySpec, c *api.Container) *api.Capabilities {
	own := &api.Capabilities{}
	if c.SecurityContext != nil && c.SecurityContext.Capabilities != nil {
		own = c.SecurityContext.Capabilities
	}
	add, drop := sets.New(own.Add...), sets.New(own.Drop...)
	before := len(add) + len(drop)
	for _, c := range s.DefaultAddCapabilities {
		if !drop.Has(api.Capability(c)) {
			add.Insert(api.Capability(c))
		}
	}
	for _, c := range s.RequiredDropCapabilities {
		drop.Insert(api.Capability(c))
	}
	if len(add)+len(drop) == before { // nothing is new, and its order stays
		if c.SecurityContext == nil {
			return nil
		}
		return c.SecurityContext.Capabilities
	}
	return &api.Capabilities{Add: sorted(add), Drop: sorted(drop)}
}

// sorted is nil where a set is empty, as an omitted field is.
func sorted(set sets.Set[api.Capability]) []api.Capability {
	if len(set) == 0 {
		return nil
	}
	return sets.List(set)
}
