package podsecuritypolicy_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

func valid() *v1beta1.PodSecurityPolicy {
	p := &v1beta1.PodSecurityPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{
			v1beta1.SeccompAllowedProfilesAnnotation:  "docker/default,runtime/default,localhost/a.json",
			v1beta1.SeccompDefaultProfileAnnotation:   "runtime/default",
			v1beta1.AppArmorAllowedProfilesAnnotation: "runtime/default,localhost/a",
			v1beta1.AppArmorDefaultProfileAnnotation:  "runtime/default",
		}},
		Spec: v1beta1.PodSecurityPolicySpec{
			SELinux:            v1beta1.SELinuxStrategyOptions{Rule: v1beta1.RunAsAny},
			RunAsUser:          v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.MustRunAsNonRoot},
			FSGroup:            v1beta1.FSGroupStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: []v1beta1.IDRange{{Min: 1, Max: 65535}}},
			SupplementalGroups: v1beta1.SupplementalGroupsStrategyOptions{Rule: v1beta1.MayRunAs},
			HostPorts:          []v1beta1.HostPortRange{{Min: 0, Max: 65535}, {Min: 80, Max: 80}},
			Volumes:            []v1beta1.FSType{"*", "configMap", "cephFS", "storageos", "ephemeral"},
			ForbiddenSysctls:   []string{"kernel.*"},
		},
	}
	v1beta1.SetDefaults(p)
	return p
}

func TestValidate(t *testing.T) {
	if errs := podsecuritypolicy.Validate(valid()); len(errs) > 0 {
		t.Fatal(errs)
	}
	yes, no, kata := true, false, "kata"
	type psp = *v1beta1.PodSecurityPolicy
	for want, change := range map[string]func(psp){
		`metadata.name: Invalid value: "A"`:                                                                                 func(p psp) { p.Name = "A" },
		`spec.hostPorts[1].min: Invalid value: 81: min cannot be greater than max`:                                          func(p psp) { p.Spec.HostPorts[1].Min = 81 },
		`spec.hostPorts[0].min: Invalid value: -1: min cannot be negative`:                                                  func(p psp) { p.Spec.HostPorts[0].Min = -1 },
		`spec.hostPorts[0].max: Invalid value: 65536: must be between 0 and 65535, inclusive`:                               func(p psp) { p.Spec.HostPorts[0].Max = 65536 },
		`spec.runAsUser.rule: Unsupported value: "MayRunAs": supported values: "MustRunAs", "MustRunAsNonRoot", "RunAsAny"`: func(p psp) { p.Spec.RunAsUser.Rule = "MayRunAs" },
		`spec.seLinux.rule: Unsupported value: "": supported values: "MustRunAs", "RunAsAny"`:                               func(p psp) { p.Spec.SELinux.Rule = "" },
		`spec.fsGroup.ranges[0].max: Invalid value: -1: max cannot be negative`:                                             func(p psp) { p.Spec.FSGroup.Ranges[0].Max = -1 },
		`spec.runAsGroup.ranges: Invalid value: null: must provide at least one range`: func(p psp) {
			p.Spec.RunAsGroup = &v1beta1.RunAsGroupStrategyOptions{Rule: v1beta1.MayRunAs}
		},
		`spec.runAsGroup.ranges: Invalid value: [{"min":1,"max":2}]: Ranges must be empty`: func(p psp) {
			p.Spec.RunAsGroup = &v1beta1.RunAsGroupStrategyOptions{Rule: v1beta1.RunAsAny, Ranges: []v1beta1.IDRange{{Min: 1, Max: 2}}}
		},
		`spec.volumes: Unsupported value: "tape"`:               func(p psp) { p.Spec.Volumes = append(p.Spec.Volumes, "tape") },
		`spec.allowedHostPaths[0]: Required value: is required`: func(p psp) { p.Spec.AllowedHostPaths = make([]v1beta1.AllowedHostPath, 1) },
		`spec.allowedHostPaths[0]: Invalid value: "/a/../b": must not contain '..'`: func(p psp) {
			p.Spec.AllowedHostPaths = []v1beta1.AllowedHostPath{{PathPrefix: "/a/../b"}}
		},
		`spec.allowedFlexVolumes[0].driver: Required value`: func(p psp) { p.Spec.AllowedFlexVolumes = make([]v1beta1.AllowedFlexVolume, 1) },
		`spec.allowedCSIDrivers[0].name: Required value`:    func(p psp) { p.Spec.AllowedCSIDrivers = make([]v1beta1.AllowedCSIDriver, 1) },
		`spec.requiredDropCapabilities: Invalid value: ["ALL"]: must be empty when all capabilities are allowed by a wildcard`: func(p psp) {
			p.Spec.RequiredDropCapabilities, p.Spec.AllowedCapabilities = []corev1.Capability{"ALL"}, []corev1.Capability{"*"}
		},
		`spec.defaultAddCapabilities: Invalid value: "KILL": capability is listed in defaultAddCapabilities and requiredDropCapabilities`: func(p psp) {
			p.Spec.RequiredDropCapabilities, p.Spec.DefaultAddCapabilities = []corev1.Capability{"KILL"}, []corev1.Capability{"KILL"}
		},
		`spec.defaultAllowPrivilegeEscalation: Invalid value: true: Cannot set DefaultAllowPrivilegeEscalation to true without also setting AllowPrivilegeEscalation to true`: func(p psp) {
			p.Spec.AllowPrivilegeEscalation, p.Spec.DefaultAllowPrivilegeEscalation = &no, &yes
		},
		`spec.allowedProcMountTypes[0]: Unsupported value: "Half"`:                                  func(p psp) { p.Spec.AllowedProcMountTypes = []corev1.ProcMountType{"Half"} },
		`spec.forbiddenSysctls[0]: Invalid value: "": empty sysctl not allowed`:                     func(p psp) { p.Spec.ForbiddenSysctls = []string{""} },
		`spec.forbiddenSysctls[0]: Invalid value: "a/b"`:                                            func(p psp) { p.Spec.ForbiddenSysctls = []string{"a/b"} },
		`spec.forbiddenSysctls.items: Forbidden: if '*' is present`:                                 func(p psp) { p.Spec.ForbiddenSysctls = []string{"*", "a"} },
		`spec.allowedUnsafeSysctls[0]: Invalid value: "kernel.msg*": sysctl overlaps with kernel.*`: func(p psp) { p.Spec.AllowedUnsafeSysctls = []string{"kernel.msg*"} },
		`spec.forbiddenSysctls[0]: Invalid value: "kernel.*": sysctl overlaps with *`:               func(p psp) { p.Spec.AllowedUnsafeSysctls = []string{"*"} },
		`spec.runtimeClass.allowedRuntimeClassNames: Required value: default "kata" must be allowed`: func(p psp) {
			p.Spec.RuntimeClass = &v1beta1.RuntimeClassStrategyOptions{DefaultRuntimeClassName: &kata}
		},
		`spec.runtimeClass.allowedRuntimeClassNames[1]: Duplicate value: "a"`: func(p psp) {
			p.Spec.RuntimeClass = &v1beta1.RuntimeClassStrategyOptions{AllowedRuntimeClassNames: []string{"a", "a"}}
		},
		`metadata.annotations[seccomp.security.alpha.kubernetes.io/defaultProfileName]: Invalid value: "*"`: func(p psp) {
			p.Annotations[v1beta1.SeccompDefaultProfileAnnotation] = "*"
		},
		`metadata.annotations[apparmor.security.beta.kubernetes.io/allowedProfileNames]: Invalid value: "x"`: func(p psp) {
			p.Annotations[v1beta1.AppArmorAllowedProfilesAnnotation] = "x"
		},
	} {
		p := valid()
		change(p)
		errs := podsecuritypolicy.Validate(p).ToAggregate()
		if errs == nil || !strings.Contains(errs.Error(), want) {
			t.Errorf("got  %v\nwant %s", errs, want)
		}
	}
}

func TestValidateUpdate(t *testing.T) {
	old := valid()
	old.ResourceVersion, old.UID = "1", "a"
	changed := old.DeepCopy()
	changed.Spec.HostPorts = nil
	if errs := podsecuritypolicy.ValidateUpdate(changed, old); len(errs) > 0 {
		t.Error(errs)
	}
	changed.UID = "b"
	if errs := podsecuritypolicy.ValidateUpdate(changed, old); len(errs) == 0 {
		t.Error("another UID is taken")
	}
}
