package podsecuritypolicy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	api "k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"k8s.io/utils/ptr"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// maxPort is the last port that there is.
const maxPort = 65535

// Validate says what is wrong with a policy, as pkg/apis/policy/validation of Kubernetes 1.24 does. Ranges of host ports,
// which that takes as they come, must be ranges of ports.
func Validate(p *v1beta1.PodSecurityPolicy) field.ErrorList {
	errs := corevalidation.ValidateObjectMeta(&p.ObjectMeta, false, apimachineryvalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, validateContent(p)...)
}

// ValidateUpdate says what is wrong with a changed policy.
func ValidateUpdate(p, old *v1beta1.PodSecurityPolicy) field.ErrorList {
	errs := corevalidation.ValidateObjectMetaUpdate(&p.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateContent(p)...)
}

func validateContent(p *v1beta1.PodSecurityPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	errs := validateAnnotations(p.Annotations, field.NewPath("metadata", "annotations"))
	errs = append(errs, validateRule(path.Child("runAsUser"), s.RunAsUser.Rule, s.RunAsUser.Ranges,
		v1beta1.MustRunAs, v1beta1.MustRunAsNonRoot, v1beta1.RunAsAny)...)
	errs = append(errs, validateRunAsGroup(path.Child("runAsGroup"), s.RunAsGroup)...)
	errs = append(errs, validateRule(path.Child("seLinux"), s.SELinux.Rule, nil, v1beta1.MustRunAs, v1beta1.RunAsAny)...)
	errs = append(errs, validateRule(path.Child("supplementalGroups"), s.SupplementalGroups.Rule, s.SupplementalGroups.Ranges,
		v1beta1.MayRunAs, v1beta1.MustRunAs, v1beta1.RunAsAny)...)
	errs = append(errs, validateRule(path.Child("fsGroup"), s.FSGroup.Rule, s.FSGroup.Ranges,
		v1beta1.MayRunAs, v1beta1.MustRunAs, v1beta1.RunAsAny)...)
	for i, r := range s.HostPorts {
		errs = append(errs, validateHostPorts(path.Child("hostPorts").Index(i), r)...)
	}
	errs = append(errs, validateVolumes(path, s)...)
	errs = append(errs, validateCapabilities(path, s)...)
	if d := s.DefaultAllowPrivilegeEscalation; d != nil && *d && !ptr.Deref(s.AllowPrivilegeEscalation, true) {
		errs = append(errs, field.Invalid(path.Child("defaultAllowPrivilegeEscalation"), *d,
			"Cannot set DefaultAllowPrivilegeEscalation to true without also setting AllowPrivilegeEscalation to true"))
	}
	for i, m := range s.AllowedProcMountTypes {
		if err := corevalidation.ValidateProcMountType(path.Child("allowedProcMountTypes").Index(i), api.ProcMountType(m)); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, validateSysctls(path, s)...)
	return append(errs, validateRuntimeClass(path.Child("runtimeClass"), s.RuntimeClass)...)
}

func validateAnnotations(annotations map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range []string{v1beta1.AppArmorDefaultProfileAnnotation, v1beta1.AppArmorAllowedProfilesAnnotation} {
		for _, p := range split(annotations[key]) {
			if err := corevalidation.ValidateAppArmorProfileFormat(p); err != nil {
				errs = append(errs, field.Invalid(path.Key(key), annotations[key], err.Error()))
			}
		}
	}
	for _, key := range []string{v1beta1.SeccompDefaultProfileAnnotation, v1beta1.SeccompAllowedProfilesAnnotation} {
		for _, p := range split(annotations[key]) {
			if p != v1beta1.All || key == v1beta1.SeccompDefaultProfileAnnotation {
				errs = append(errs, corevalidation.ValidateSeccompProfile(p, path.Key(key))...)
			}
		}
	}
	return errs
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func validateRule(path *field.Path, rule v1beta1.Rule, ranges []v1beta1.IDRange, supported ...v1beta1.Rule) field.ErrorList {
	var errs field.ErrorList
	if !slices.Contains(supported, rule) {
		errs = append(errs, field.NotSupported(path.Child("rule"), rule, supported))
	}
	for i, r := range ranges {
		errs = append(errs, validateIDs(path.Child("ranges").Index(i), r)...)
	}
	return errs
}

func validateRunAsGroup(path *field.Path, o *v1beta1.RunAsGroupStrategyOptions) field.ErrorList {
	if o == nil {
		return nil
	}
	errs := validateRule(path, o.Rule, o.Ranges, v1beta1.MustRunAs, v1beta1.RunAsAny, v1beta1.MayRunAs)
	switch {
	case o.Rule == v1beta1.RunAsAny && len(o.Ranges) != 0:
		errs = append(errs, field.Invalid(path.Child("ranges"), o.Ranges, "Ranges must be empty"))
	case (o.Rule == v1beta1.MustRunAs || o.Rule == v1beta1.MayRunAs) && len(o.Ranges) == 0:
		errs = append(errs, field.Invalid(path.Child("ranges"), o.Ranges, "must provide at least one range"))
	}
	return errs
}

func validateIDs(path *field.Path, r v1beta1.IDRange) field.ErrorList {
	var errs field.ErrorList
	if r.Min < 0 {
		errs = append(errs, field.Invalid(path.Child("min"), r.Min, "min cannot be negative"))
	}
	if r.Max < 0 {
		errs = append(errs, field.Invalid(path.Child("max"), r.Max, "max cannot be negative"))
	}
	if r.Min > r.Max {
		errs = append(errs, field.Invalid(path.Child("min"), r.Min, "min cannot be greater than max"))
	}
	return errs
}

func validateHostPorts(path *field.Path, r v1beta1.HostPortRange) field.ErrorList {
	errs := validateIDs(path, v1beta1.IDRange{Min: int64(r.Min), Max: int64(r.Max)})
	if r.Max > maxPort {
		errs = append(errs, field.Invalid(path.Child("max"), r.Max, fmt.Sprintf("must be between 0 and %d, inclusive", maxPort)))
	}
	return errs
}

// VolumeTypes are the names of all kinds of volumes, by the field of a Pod's volume that has them: what JSON calls it, save
// for one that PodSecurityPolicy spelled in its own way.
var VolumeTypes = func() map[string]v1beta1.FSType {
	types := map[string]v1beta1.FSType{}
	for f := range reflect.TypeFor[corev1.VolumeSource]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		types[f.Name] = v1beta1.FSType(name)
	}
	types["CephFS"] = v1beta1.CephFS
	return types
}()

func validateVolumes(path *field.Path, s *v1beta1.PodSecurityPolicySpec) field.ErrorList {
	supported := []v1beta1.FSType{v1beta1.AllVolumes}
	for _, t := range VolumeTypes {
		supported = append(supported, t)
	}
	slices.Sort(supported)
	var errs field.ErrorList
	for _, v := range s.Volumes {
		if !slices.Contains(supported, v) {
			errs = append(errs, field.NotSupported(path.Child("volumes"), v, supported))
		}
	}
	for i, p := range s.AllowedHostPaths {
		at := path.Child("allowedHostPaths").Index(i)
		if p.PathPrefix == "" {
			errs = append(errs, field.Required(at, "is required"))
		} else if slices.Contains(strings.Split(p.PathPrefix, "/"), "..") {
			errs = append(errs, field.Invalid(at, p.PathPrefix, "must not contain '..'"))
		}
	}
	for i, v := range s.AllowedFlexVolumes {
		if v.Driver == "" {
			errs = append(errs, field.Required(path.Child("allowedFlexVolumes").Index(i).Child("driver"), "must specify a driver"))
		}
	}
	for i, d := range s.AllowedCSIDrivers {
		errs = append(errs, corevalidation.ValidateCSIDriverName(d.Name, path.Child("allowedCSIDrivers").Index(i).Child("name"))...)
	}
	return errs
}

func validateCapabilities(path *field.Path, s *v1beta1.PodSecurityPolicySpec) field.ErrorList {
	var errs field.ErrorList
	if len(s.RequiredDropCapabilities) > 0 && slices.Contains(s.AllowedCapabilities, v1beta1.All) {
		errs = append(errs, field.Invalid(path.Child("requiredDropCapabilities"), s.RequiredDropCapabilities,
			"must be empty when all capabilities are allowed by a wildcard"))
	}
	added := func(name string, list []corev1.Capability) {
		for _, c := range list {
			if slices.Contains(s.RequiredDropCapabilities, c) {
				errs = append(errs, field.Invalid(path.Child(name), c,
					fmt.Sprintf("capability is listed in %s and requiredDropCapabilities", name)))
			}
		}
	}
	added("defaultAddCapabilities", s.DefaultAddCapabilities)
	added("allowedCapabilities", s.AllowedCapabilities)
	return errs
}

func validateSysctls(path *field.Path, s *v1beta1.PodSecurityPolicySpec) field.ErrorList {
	allowed, forbidden := path.Child("allowedUnsafeSysctls"), path.Child("forbiddenSysctls")
	errs := append(validatePatterns(allowed, s.AllowedUnsafeSysctls), validatePatterns(forbidden, s.ForbiddenSysctls)...)
	for i, a := range s.AllowedUnsafeSysctls {
		for j, f := range s.ForbiddenSysctls {
			switch {
			case MatchesSysctl(f, strings.TrimSuffix(a, v1beta1.All)):
				errs = append(errs, field.Invalid(allowed.Index(i), a, fmt.Sprintf("sysctl overlaps with %v", f)))
			case MatchesSysctl(a, strings.TrimSuffix(f, v1beta1.All)):
				errs = append(errs, field.Invalid(forbidden.Index(j), f, fmt.Sprintf("sysctl overlaps with %v", a)))
			}
		}
	}
	return errs
}

// MatchesSysctl says whether a pattern, which is a name or ends in '*', is one of name.
func MatchesSysctl(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, v1beta1.All); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

func validatePatterns(path *field.Path, patterns []string) field.ErrorList {
	var errs field.ErrorList
	all := false
	for i, p := range patterns {
		switch {
		case p == "":
			errs = append(errs, field.Invalid(path.Index(i), p, "empty sysctl not allowed"))
		case strings.Contains(p, "/") || !policyvalidation.IsValidSysctlPattern(p):
			errs = append(errs, field.Invalid(path.Index(i), p, fmt.Sprintf("must have at most %d characters and match regex %s",
				corevalidation.SysctlMaxLength, policyvalidation.SysctlContainSlashPatternFmt)))
		case p[0] == '*':
			all = true
		}
	}
	if all && len(patterns) > 1 {
		errs = append(errs, field.Forbidden(path.Child("items"), "if '*' is present, must not specify other sysctls"))
	}
	return errs
}

func validateRuntimeClass(path *field.Path, o *v1beta1.RuntimeClassStrategyOptions) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	names := path.Child("allowedRuntimeClassNames")
	for i, name := range o.AllowedRuntimeClassNames {
		if name != v1beta1.All {
			errs = append(errs, corevalidation.ValidateRuntimeClassName(name, names.Index(i))...)
		}
		if slices.Contains(o.AllowedRuntimeClassNames[:i], name) {
			errs = append(errs, field.Duplicate(names.Index(i), name))
		}
	}
	any := slices.Contains(o.AllowedRuntimeClassNames, v1beta1.All)
	if d := o.DefaultRuntimeClassName; d != nil {
		errs = append(errs, corevalidation.ValidateRuntimeClassName(*d, path.Child("defaultRuntimeClassName"))...)
		if !any && !slices.Contains(o.AllowedRuntimeClassNames, *d) {
			errs = append(errs, field.Required(names, fmt.Sprintf("default %q must be allowed", *d)))
		}
	}
	if any && len(o.AllowedRuntimeClassNames) > 1 {
		errs = append(errs, field.Invalid(names, o.AllowedRuntimeClassNames, "if '*' is present, must not specify other RuntimeClass names"))
	}
	return errs
}
