package podsecuritypolicy_test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

var (
	all = []corev1.Capability{"*"}
	net = []corev1.Capability{"NET_RAW"}
)

// TestFields has a row for each rule of a policy: a Pod that it refuses, and why, or what it makes of one.
func TestFields(t *testing.T) {
	yes, no := true, false
	zero, one, nine := int64(0), int64(1), int64(9)
	ids := []v1beta1.IDRange{{Min: 1, Max: 5}}
	etc, local := "/etc/x", "a.json"
	type psp = *v1beta1.PodSecurityPolicy
	context := func(c api.SecurityContext) func(*api.Pod) {
		return func(p *api.Pod) { p.Spec.Containers[0].SecurityContext = &c }
	}
	volume := func(v api.VolumeSource) func(*api.Pod) {
		return func(p *api.Pod) {
			p.Spec.Volumes = []api.Volume{{Name: "v", VolumeSource: v}}
			p.Spec.Containers[0].VolumeMounts = []api.VolumeMount{{Name: "v", MountPath: "/v"}}
		}
	}
	sysctls := func(names ...string) func(*api.Pod) {
		return func(p *api.Pod) {
			for _, n := range names {
				p.Spec.SecurityContext.Sysctls = append(p.Spec.SecurityContext.Sysctls, api.Sysctl{Name: n, Value: "1"})
			}
		}
	}
	kata := "kata"
	for name, c := range map[string]struct {
		policy func(psp)
		pod    func(*api.Pod)
		errors []string // none: admitted
		result string   // JSON of the Pod's and the first container's security context
	}{
		"runAsUser gets the first": {
			policy: func(p psp) { p.Spec.RunAsUser = v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: ids} },
			result: `[{},{"runAsUser":1}]`,
		},
		"runAsUser of the Pod counts": {
			policy: func(p psp) { p.Spec.RunAsUser = v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: ids} },
			pod:    func(p *api.Pod) { p.Spec.SecurityContext.RunAsUser = &nine },
			errors: []string{"p: spec.containers[0].securityContext.runAsUser: Invalid value: 9: must be in the ranges: [{1 5}]"},
		},
		"MustRunAs without ranges": {
			policy: func(p psp) { p.Spec.RunAsUser.Rule = v1beta1.MustRunAs },
			errors: []string{"p: spec.containers[0].securityContext.runAsUser: Required value"},
		},
		"non-root marks": {
			policy: func(p psp) { p.Spec.RunAsUser.Rule = v1beta1.MustRunAsNonRoot },
			result: `[{},{"runAsNonRoot":true}]`,
		},
		"non-root refuses root": {
			policy: func(p psp) { p.Spec.RunAsUser.Rule = v1beta1.MustRunAsNonRoot },
			pod:    context(api.SecurityContext{RunAsUser: &zero}),
			errors: []string{"p: spec.containers[0].securityContext.runAsUser: Invalid value: 0: running with the root UID is forbidden"},
		},
		"non-root refuses false": {
			policy: func(p psp) { p.Spec.RunAsUser.Rule = v1beta1.MustRunAsNonRoot },
			pod:    context(api.SecurityContext{RunAsUser: &one, RunAsNonRoot: &no}),
			errors: []string{"p: spec.containers[0].securityContext.runAsNonRoot: Invalid value: false: must be true"},
		},
		"groups get the first": {
			policy: func(p psp) {
				p.Spec.RunAsGroup = &v1beta1.RunAsGroupStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: ids}
				p.Spec.FSGroup = v1beta1.FSGroupStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: ids}
				p.Spec.SupplementalGroups = v1beta1.SupplementalGroupsStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: ids}
			},
			result: `[{"supplementalGroups":[1],"fsGroup":1},{"runAsGroup":1}]`,
		},
		"groups that may": {
			policy: func(p psp) {
				p.Spec.RunAsGroup = &v1beta1.RunAsGroupStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
				p.Spec.FSGroup = v1beta1.FSGroupStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
				p.Spec.SupplementalGroups = v1beta1.SupplementalGroupsStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
			},
			result: `[{},null]`,
		},
		"groups that may, outside": {
			policy: func(p psp) {
				p.Spec.RunAsGroup = &v1beta1.RunAsGroupStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
				p.Spec.FSGroup = v1beta1.FSGroupStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
				p.Spec.SupplementalGroups = v1beta1.SupplementalGroupsStrategyOptions{Rule: v1beta1.MayRunAs, Ranges: ids}
			},
			pod: func(p *api.Pod) {
				p.Spec.SecurityContext = &api.PodSecurityContext{RunAsGroup: &nine, FSGroup: &nine, SupplementalGroups: []int64{1, 9}}
			},
			errors: []string{
				"p: spec.securityContext.fsGroup: Invalid value: [9]: group 9 must be in the ranges: [{1 5}]",
				"p: spec.securityContext.supplementalGroups: Invalid value: [1,9]: group 9 must be in the ranges: [{1 5}]",
				"p: spec.containers[0].securityContext.runAsGroup: Invalid value: [9]: group 9 must be in the ranges: [{1 5}]",
			},
		},
		"selinux gets the labels": {
			policy: func(p psp) {
				p.Spec.SELinux = v1beta1.SELinuxStrategyOptions{Rule: v1beta1.MustRunAs, SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1,c2"}}
			},
			result: `[{"seLinuxOptions":{"level":"s0:c1,c2"}},null]`,
		},
		"selinux labels": {
			policy: func(p psp) {
				p.Spec.SELinux = v1beta1.SELinuxStrategyOptions{Rule: v1beta1.MustRunAs, SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1,c2", User: "u"}}
			},
			pod: func(p *api.Pod) {
				p.Spec.SecurityContext.SELinuxOptions = &api.SELinuxOptions{Level: "s0:c2,c1", User: "root"}
			},
			errors: []string{`p: spec.securityContext.seLinuxOptions.user: Invalid value: "root": must be u`, "p: spec.containers[0].securityContext.seLinuxOptions.user"},
		},
		"capabilities": {
			policy: func(p psp) {
				p.Spec.AllowedCapabilities, p.Spec.RequiredDropCapabilities = nil, net
				p.Spec.DefaultAddCapabilities = []corev1.Capability{"CHOWN", "KILL"}
			},
			pod:    context(api.SecurityContext{Capabilities: &api.Capabilities{Drop: []api.Capability{"KILL"}}}),
			result: `[{},{"capabilities":{"add":["CHOWN"],"drop":["KILL","NET_RAW"]}}]`,
		},
		"capabilities that may not be": {
			policy: func(p psp) { p.Spec.AllowedCapabilities = []corev1.Capability{"CHOWN"} },
			pod:    context(api.SecurityContext{Capabilities: &api.Capabilities{Add: []api.Capability{"CHOWN", "NET_ADMIN"}}}),
			errors: []string{`p: spec.containers[0].securityContext.capabilities.add: Invalid value: "NET_ADMIN": capability may not be added`},
		},
		"read-only root file system": {
			policy: func(p psp) { p.Spec.ReadOnlyRootFilesystem = true },
			result: `[{},{"readOnlyRootFilesystem":true}]`,
		},
		"writable root file system": {
			policy: func(p psp) { p.Spec.ReadOnlyRootFilesystem = true },
			pod:    context(api.SecurityContext{ReadOnlyRootFilesystem: &no}),
			errors: []string{"p: spec.containers[0].securityContext.readOnlyRootFilesystem: Invalid value: false: ReadOnlyRootFilesystem must be set to true"},
		},
		"escalation gets the default":    {policy: func(p psp) { p.Spec.DefaultAllowPrivilegeEscalation = &no }, result: `[{},{"allowPrivilegeEscalation":false}]`},
		"no escalation where it may not": {policy: func(p psp) { p.Spec.AllowPrivilegeEscalation = &no }, result: `[{},{"allowPrivilegeEscalation":false}]`},
		"escalation": {
			policy: func(p psp) { p.Spec.AllowPrivilegeEscalation = &no },
			pod:    context(api.SecurityContext{AllowPrivilegeEscalation: &yes}),
			errors: []string{"p: spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: true: Allowing privilege escalation for containers is not allowed"},
		},
		"seccomp gets the default": {
			policy: func(p psp) {
				p.Annotations = map[string]string{v1beta1.SeccompAllowedProfilesAnnotation: "docker/default", v1beta1.SeccompDefaultProfileAnnotation: "runtime/default"}
			},
			result: `[{"seccompProfile":{"type":"RuntimeDefault"}},null]`,
		},
		"seccomp profile": {
			policy: func(p psp) {
				p.Annotations = map[string]string{v1beta1.SeccompAllowedProfilesAnnotation: "runtime/default,localhost/a.json"}
			},
			pod: func(p *api.Pod) {
				p.Spec.SecurityContext.SeccompProfile = &api.SeccompProfile{Type: "Localhost", LocalhostProfile: &local}
				p.Spec.Containers[0].SecurityContext = &api.SecurityContext{SeccompProfile: &api.SeccompProfile{Type: "Unconfined"}}
			},
			errors: []string{"p: spec.containers[0].securityContext.seccompProfile: Forbidden: unconfined is not an allowed seccomp profile. Valid values are runtime/default,localhost/a.json"},
		},
		"seccomp where none may be": {
			policy: func(p psp) { p.Annotations = nil },
			pod:    func(p *api.Pod) { p.Spec.SecurityContext.SeccompProfile = &api.SeccompProfile{Type: "RuntimeDefault"} },
			errors: []string{"p: spec.securityContext.seccompProfile: Forbidden: seccomp may not be set"},
		},
		"apparmor gets the default": {
			policy: func(p psp) {
				p.Annotations[v1beta1.AppArmorAllowedProfilesAnnotation] = "runtime/default"
				p.Annotations[v1beta1.AppArmorDefaultProfileAnnotation] = "runtime/default"
			},
			result: `[{},{"appArmorProfile":{"type":"RuntimeDefault"}}]`,
		},
		"apparmor by annotation": {
			policy: func(p psp) { p.Annotations[v1beta1.AppArmorAllowedProfilesAnnotation] = "runtime/default" },
			pod: func(p *api.Pod) {
				p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}
			},
			errors: []string{`p: spec.containers[0].securityContext.appArmorProfile: Forbidden: unconfined is not an allowed profile. Allowed values: "runtime/default"`},
		},
		"apparmor unset": {
			policy: func(p psp) { p.Annotations[v1beta1.AppArmorAllowedProfilesAnnotation] = "runtime/default" },
			errors: []string{"p: spec.containers[0].securityContext.appArmorProfile: Forbidden: AppArmor profile must be set"},
		},
		"proc mount": {
			pod:    func(p *api.Pod) { m := api.UnmaskedProcMount; context(api.SecurityContext{ProcMount: &m})(p) },
			errors: []string{`p: spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": ProcMountType is not allowed`},
		},
		"sysctls": {
			policy: func(p psp) {
				p.Spec.AllowedUnsafeSysctls, p.Spec.ForbiddenSysctls = []string{"net.core.*"}, []string{"kernel.*"}
			},
			pod: sysctls("net.core.somaxconn", "kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies", "vm/swappiness", "kernel/msgmax"),
			errors: []string{
				`p: spec.securityContext.sysctls[1]: Forbidden: sysctl "kernel.shm_rmid_forced" is not allowed`,
				`p: spec.securityContext.sysctls[3]: Forbidden: unsafe sysctl "vm/swappiness" is not allowed`,
				`p: spec.securityContext.sysctls[4]: Forbidden: sysctl "kernel/msgmax" is not allowed`,
			},
		},
		"volumes": {
			policy: func(p psp) { p.Spec.Volumes = []v1beta1.FSType{"emptyDir"} },
			pod:    volume(api.VolumeSource{CephFS: &api.CephFSVolumeSource{}}),
			errors: []string{`p: spec.volumes[0]: Invalid value: "cephFS": cephFS volumes are not allowed to be used`},
		},
		"a token where secrets may be": {
			policy: func(p psp) { p.Spec.Volumes = []v1beta1.FSType{"secret"} },
			pod: volume(api.VolumeSource{Projected: &api.ProjectedVolumeSource{Sources: []api.VolumeProjection{
				{ServiceAccountToken: &api.ServiceAccountTokenProjection{Path: "token"}},
				{ConfigMap: &api.ConfigMapProjection{LocalObjectReference: api.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			}}}),
			result: `[{},null]`,
		},
		"other projections where secrets may be": {
			policy: func(p psp) { p.Spec.Volumes = []v1beta1.FSType{"secret"} },
			pod: volume(api.VolumeSource{Projected: &api.ProjectedVolumeSource{Sources: []api.VolumeProjection{
				{ConfigMap: &api.ConfigMapProjection{LocalObjectReference: api.LocalObjectReference{Name: "other"}}},
			}}}),
			errors: []string{"projected volumes are not allowed to be used"},
		},
		"host path below": {
			policy: func(p psp) { p.Spec.AllowedHostPaths = []v1beta1.AllowedHostPath{{PathPrefix: "/etc"}} },
			pod:    volume(api.VolumeSource{HostPath: &api.HostPathVolumeSource{Path: etc}}),
			result: `[{},null]`,
		},
		"host path beside": {
			policy: func(p psp) {
				p.Spec.AllowedHostPaths = []v1beta1.AllowedHostPath{{PathPrefix: "/et"}, {PathPrefix: "/etc/x/y"}}
			},
			pod:    volume(api.VolumeSource{HostPath: &api.HostPathVolumeSource{Path: etc}}),
			errors: []string{`p: spec.volumes[0].hostPath.pathPrefix: Invalid value: "/etc/x": is not allowed to be used`},
		},
		"host path to read": {
			policy: func(p psp) { p.Spec.AllowedHostPaths = []v1beta1.AllowedHostPath{{PathPrefix: "/", ReadOnly: true}} },
			pod:    volume(api.VolumeSource{HostPath: &api.HostPathVolumeSource{Path: etc}}),
			errors: []string{"p: spec.containers[0].volumeMounts[0].readOnly: Invalid value: false: must be read-only"},
		},
		"csi driver": {
			policy: func(p psp) { p.Spec.AllowedCSIDrivers = []v1beta1.AllowedCSIDriver{{Name: "a"}} },
			pod:    volume(api.VolumeSource{CSI: &api.CSIVolumeSource{Driver: "b"}}),
			errors: []string{`p: spec.volumes[0].csi.driver: Invalid value: "b": Inline CSI driver is not allowed to be used`},
		},
		"flexvolume driver": {
			policy: func(p psp) { p.Spec.AllowedFlexVolumes = []v1beta1.AllowedFlexVolume{{Driver: "a"}} },
			pod:    volume(api.VolumeSource{FlexVolume: &api.FlexVolumeSource{Driver: "b"}}),
			errors: []string{`p: spec.volumes[0].driver: Invalid value: "b": Flexvolume driver is not allowed to be used`},
		},
		"runtime class": {
			policy: func(p psp) {
				p.Spec.RuntimeClass = &v1beta1.RuntimeClassStrategyOptions{AllowedRuntimeClassNames: []string{"runc"}}
			},
			pod:    func(p *api.Pod) { p.Spec.RuntimeClassName = &kata },
			errors: []string{`p: spec.runtimeClassName: Invalid value: "kata"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := request{policies: []v1beta1.PodSecurityPolicy{policy("p", func(p *v1beta1.PodSecurityPolicy) {
				if c.policy != nil {
					c.policy(p)
				}
			})}}
			pod, err := r.run(t, newPod(c.pod))
			if len(c.errors) > 0 {
				refused(t, err, c.errors...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := contexts(t, pod); got != c.result {
				t.Errorf("got %s, want %s", got, c.result)
			}
		})
	}
}

// contexts is the JSON of a Pod's and its first container's security context.
func contexts(t *testing.T, pod *api.Pod) string {
	t.Helper()
	var out corev1.Pod
	if err := legacyscheme.Scheme.Convert(pod, &out, nil); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal([]any{out.Spec.SecurityContext, out.Spec.Containers[0].SecurityContext})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
