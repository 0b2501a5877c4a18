package podsecuritypolicy

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	api "k8s.io/kubernetes/pkg/apis/core"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// Annotations of policies call profiles by these names.
const (
	runtimeDefault  = "runtime/default"
	dockerDefault   = "docker/default" // seccomp's older name of runtime/default
	unconfined      = "unconfined"
	localhostPrefix = "localhost/"
)

func seccompProfile(name string) *api.SeccompProfile {
	switch file, local := strings.CutPrefix(name, localhostPrefix); {
	case name == runtimeDefault || name == dockerDefault:
		return &api.SeccompProfile{Type: api.SeccompProfileTypeRuntimeDefault}
	case name == unconfined:
		return &api.SeccompProfile{Type: api.SeccompProfileTypeUnconfined}
	case local:
		return &api.SeccompProfile{Type: api.SeccompProfileTypeLocalhost, LocalhostProfile: &file}
	}
	return nil
}

func seccompName(p *api.SeccompProfile) string {
	switch {
	case p == nil:
		return ""
	case p.Type == api.SeccompProfileTypeRuntimeDefault:
		return runtimeDefault
	case p.Type == api.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return localhostPrefix + *p.LocalhostProfile
	case p.Type == api.SeccompProfileTypeUnconfined:
		return unconfined
	}
	return string(p.Type)
}

func effectiveSeccomp(pod *api.Pod, c *api.Container) *api.SeccompProfile {
	if sc := c.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		return sc.SeccompProfile
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.SeccompProfile
	}
	return nil
}

// checkSeccomp wants an allowed profile, or none at all where the policy lists none.
func checkSeccomp(p *v1beta1.PodSecurityPolicy, path *field.Path, profile *api.SeccompProfile) field.ErrorList {
	annotation, restricted := p.Annotations[v1beta1.SeccompAllowedProfilesAnnotation]
	name := seccompName(profile)
	if !restricted {
		if name != "" {
			return field.ErrorList{field.Forbidden(path, "seccomp may not be set")}
		}
		return nil
	}
	allowed := strings.Split(annotation, ",")
	if slices.Contains(allowed, v1beta1.All) || slices.Contains(allowed, name) ||
		(name == runtimeDefault && slices.Contains(allowed, dockerDefault)) {
		return nil
	}
	return field.ErrorList{field.Forbidden(path,
		fmt.Sprintf("%s is not an allowed seccomp profile. Valid values are %s", name, annotation))}
}

func appArmorProfile(name string) *api.AppArmorProfile {
	return podutil.ApparmorFieldForAnnotation(name)
}

func appArmorName(p *api.AppArmorProfile) string {
	switch {
	case p == nil:
		return ""
	case p.Type == api.AppArmorProfileTypeRuntimeDefault:
		return runtimeDefault
	case p.Type == api.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return localhostPrefix + *p.LocalhostProfile
	case p.Type == api.AppArmorProfileTypeUnconfined:
		return unconfined
	}
	return string(p.Type)
}

// effectiveAppArmor is what the node will go by. The annotation becomes the container's field when the Pod is stored.
func effectiveAppArmor(pod *api.Pod, c *api.Container) *api.AppArmorProfile {
	if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		return sc.AppArmorProfile
	}
	if p := appArmorProfile(pod.Annotations[api.DeprecatedAppArmorAnnotationKeyPrefix+c.Name]); p != nil {
		return p
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.AppArmorProfile
	}
	return nil
}

// checkAppArmor wants an allowed profile, or anything where the policy lists none.
func checkAppArmor(p *v1beta1.PodSecurityPolicy, path *field.Path, profile *api.AppArmorProfile) field.ErrorList {
	annotation, restricted := p.Annotations[v1beta1.AppArmorAllowedProfilesAnnotation]
	name := appArmorName(profile)
	switch {
	case !restricted || slices.Contains(strings.Split(annotation, ","), name):
		return nil
	case name == "":
		return field.ErrorList{field.Forbidden(path, "AppArmor profile must be set")}
	}
	return field.ErrorList{field.Forbidden(path, fmt.Sprintf("%s is not an allowed profile. Allowed values: %q", name, annotation))}
}

// checkSELinux wants the policy's labels.
func checkSELinux(s *v1beta1.PodSecurityPolicySpec, path *field.Path, o *api.SELinuxOptions) field.ErrorList {
	if s.SELinux.Rule != v1beta1.MustRunAs {
		return nil
	}
	if o == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	want := requiredSELinux(s)
	if want == nil {
		want = &api.SELinuxOptions{}
	}
	var errs field.ErrorList
	must := func(name, want, is string) {
		if want != is {
			errs = append(errs, field.Invalid(path.Child(name), is, "must be "+want))
		}
	}
	if !sameLevel(want.Level, o.Level) {
		must("level", want.Level, o.Level)
	}
	must("role", want.Role, o.Role)
	must("type", want.Type, o.Type)
	must("user", want.User, o.User)
	return errs
}

// sameLevel compares SENSITIVITY:CATEGORY,…, whose categories are a set.
func sameLevel(a, b string) bool {
	sensitivityA, categoriesA, _ := strings.Cut(a, ":")
	sensitivityB, categoriesB, _ := strings.Cut(b, ":")
	x, y := strings.Split(categoriesA, ","), strings.Split(categoriesB, ",")
	slices.Sort(x)
	slices.Sort(y)
	return sensitivityA == sensitivityB && slices.Equal(x, y)
}
