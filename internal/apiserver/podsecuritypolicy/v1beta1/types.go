package v1beta1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// ValidatedPSPAnnotation on a Pod names the policy that allowed it.
	ValidatedPSPAnnotation = "kubernetes.io/psp"

	// SeccompDefaultProfileAnnotation on a policy names the profile of Pods that ask for none.
	SeccompDefaultProfileAnnotation = "seccomp.security.alpha.kubernetes.io/defaultProfileName"
	// SeccompAllowedProfilesAnnotation on a policy lists the profiles that Pods may ask for, with commas; "*" is any.
	SeccompAllowedProfilesAnnotation = "seccomp.security.alpha.kubernetes.io/allowedProfileNames"

	// AppArmorDefaultProfileAnnotation on a policy names the profile of containers that ask for none.
	AppArmorDefaultProfileAnnotation = "apparmor.security.beta.kubernetes.io/defaultProfileName"
	// AppArmorAllowedProfilesAnnotation on a policy lists the profiles that containers may ask for, with commas.
	AppArmorAllowedProfilesAnnotation = "apparmor.security.beta.kubernetes.io/allowedProfileNames"

	// All, in place of a name, allows every capability, volume, profile or runtime class.
	All = "*"
)

// PodSecurityPolicy governs the ability to make requests that affect the Security Context that will be applied to a Pod
// and its containers.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type PodSecurityPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec defines the policy enforced.
	// +optional
	Spec PodSecurityPolicySpec `json:"spec,omitempty"`
}

// PodSecurityPolicyList is a list of PodSecurityPolicy objects.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type PodSecurityPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items is a list of schema objects.
	Items []PodSecurityPolicy `json:"items"`
}

// PodSecurityPolicySpec defines the policy enforced.
type PodSecurityPolicySpec struct {
	// privileged determines if a pod can request to be run as privileged.
	// +optional
	Privileged bool `json:"privileged,omitempty"`
	// defaultAddCapabilities are added to each container unless it drops them. A capability cannot be here and in
	// requiredDropCapabilities. What is here need not be in allowedCapabilities.
	// +optional
	// +listType=atomic
	DefaultAddCapabilities []corev1.Capability `json:"defaultAddCapabilities,omitempty"`
	// requiredDropCapabilities are dropped from each container and may not be added.
	// +optional
	// +listType=atomic
	RequiredDropCapabilities []corev1.Capability `json:"requiredDropCapabilities,omitempty"`
	// allowedCapabilities may be added by a container. '*' allows all.
	// +optional
	// +listType=atomic
	AllowedCapabilities []corev1.Capability `json:"allowedCapabilities,omitempty"`
	// volumes are the kinds of volumes that may be used. Empty allows none, '*' allows all.
	// +optional
	// +listType=atomic
	Volumes []FSType `json:"volumes,omitempty"`
	// hostNetwork determines if the pod may use the node's network.
	// +optional
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// hostPorts are the ranges of ports of the node that may be used. Empty allows none.
	// +optional
	// +listType=atomic
	HostPorts []HostPortRange `json:"hostPorts,omitempty"`
	// hostPID determines if the pod may use the node's process IDs.
	// +optional
	HostPID bool `json:"hostPID,omitempty"`
	// hostIPC determines if the pod may use the node's interprocess communication.
	// +optional
	HostIPC bool `json:"hostIPC,omitempty"`
	// seLinux is the strategy that says which SELinux labels may be set.
	SELinux SELinuxStrategyOptions `json:"seLinux"`
	// runAsUser is the strategy that says which users containers may run as.
	RunAsUser RunAsUserStrategyOptions `json:"runAsUser"`
	// runAsGroup is the strategy that says which groups containers may run as. If it is missing, they may run as any.
	// +optional
	RunAsGroup *RunAsGroupStrategyOptions `json:"runAsGroup,omitempty"`
	// supplementalGroups is the strategy that says which supplemental groups a pod may have.
	SupplementalGroups SupplementalGroupsStrategyOptions `json:"supplementalGroups"`
	// fsGroup is the strategy that says which fsGroup a pod may have.
	FSGroup FSGroupStrategyOptions `json:"fsGroup"`
	// readOnlyRootFilesystem, when true, makes containers run with a read only root file system. A container that
	// asks for a writable one is denied.
	// +optional
	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`
	// defaultAllowPrivilegeEscalation says whether a process may gain more privileges than its parent where the
	// container does not say.
	// +optional
	DefaultAllowPrivilegeEscalation *bool `json:"defaultAllowPrivilegeEscalation,omitempty"`
	// allowPrivilegeEscalation determines if a pod can request that processes may gain more privileges than their
	// parent. Defaults to true.
	// +optional
	AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation,omitempty"`
	// allowedHostPaths are the host paths that may be used. Empty allows all.
	// +optional
	// +listType=atomic
	AllowedHostPaths []AllowedHostPath `json:"allowedHostPaths,omitempty"`
	// allowedFlexVolumes are the Flexvolumes that may be used where volumes allows flexVolume. Empty allows all.
	// +optional
	// +listType=atomic
	AllowedFlexVolumes []AllowedFlexVolume `json:"allowedFlexVolumes,omitempty"`
	// allowedCSIDrivers are the inline CSI drivers that may be used where volumes allows csi. Empty allows all.
	// +optional
	// +listType=atomic
	AllowedCSIDrivers []AllowedCSIDriver `json:"allowedCSIDrivers,omitempty"`
	// allowedUnsafeSysctls are unsafe sysctls that may be set. Each is a name or a prefix that ends in '*'.
	// +optional
	// +listType=atomic
	AllowedUnsafeSysctls []string `json:"allowedUnsafeSysctls,omitempty"`
	// forbiddenSysctls are sysctls, safe or not, that may not be set. Each is a name or a prefix that ends in '*'.
	// +optional
	// +listType=atomic
	ForbiddenSysctls []string `json:"forbiddenSysctls,omitempty"`
	// allowedProcMountTypes are the ways in which /proc may be mounted. Empty allows the default only.
	// +optional
	// +listType=atomic
	AllowedProcMountTypes []corev1.ProcMountType `json:"allowedProcMountTypes,omitempty"`
	// runtimeClass is the strategy that says which runtime classes a pod may have. If it is missing, it may have any.
	// +optional
	RuntimeClass *RuntimeClassStrategyOptions `json:"runtimeClass,omitempty"`
}

// FSType is a kind of volume, by the name of its field in a Pod's volume.
type FSType string

// The kinds of volumes that policies treat in ways of their own.
const (
	AllVolumes = FSType(All)
	HostPath   = FSType("hostPath")
	FlexVolume = FSType("flexVolume")
	CSI        = FSType("csi")
	Secret     = FSType("secret")
	Projected  = FSType("projected")
	CephFS     = FSType("cephFS")
)

// AllowedHostPath defines the host volume conditions that will be enabled by a policy for pods to use.
type AllowedHostPath struct {
	// pathPrefix is the path that the host volume must match, itself or a folder above it. It does not support '*'.
	// For example, /foo allows /foo, /foo/ and /foo/bar, and does not allow /food or /etc/foo.
	PathPrefix string `json:"pathPrefix,omitempty"`
	// readOnly, when true, allows host volumes that match only if all volume mounts are readOnly.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// AllowedFlexVolume represents a single Flexvolume that is allowed to be used.
type AllowedFlexVolume struct {
	// driver is the name of the Flexvolume driver.
	Driver string `json:"driver"`
}

// AllowedCSIDriver represents a single inline CSI Driver that is allowed to be used.
type AllowedCSIDriver struct {
	// name is the registered name of the CSI driver.
	Name string `json:"name"`
}

// HostPortRange defines a range of host ports that will be enabled by a policy for pods to use.
type HostPortRange struct {
	// min is the start of the range, inclusive.
	Min int32 `json:"min"`
	// max is the end of the range, inclusive.
	Max int32 `json:"max"`
}

// IDRange provides a min/max of an allowed range of IDs.
type IDRange struct {
	// min is the start of the range, inclusive.
	Min int64 `json:"min"`
	// max is the end of the range, inclusive.
	Max int64 `json:"max"`
}

// Rule is how a strategy judges.
type Rule string

// The rules; which of them a strategy has is for validation to say.
const (
	// MustRunAs wants a value, and one in the ranges; a Pod without one gets the first.
	MustRunAs = Rule("MustRunAs")
	// MayRunAs wants a value in the ranges where there is one.
	MayRunAs = Rule("MayRunAs")
	// MustRunAsNonRoot wants any user but root.
	MustRunAsNonRoot = Rule("MustRunAsNonRoot")
	// RunAsAny allows anything.
	RunAsAny = Rule("RunAsAny")
)

// SELinuxStrategyOptions defines the strategy type and any options used to create the strategy.
type SELinuxStrategyOptions struct {
	// rule is the strategy that will dictate the allowable labels that may be set: MustRunAs or RunAsAny.
	Rule Rule `json:"rule"`
	// seLinuxOptions required to run as; required for MustRunAs.
	// More info: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
	// +optional
	SELinuxOptions *corev1.SELinuxOptions `json:"seLinuxOptions,omitempty"`
}

// RunAsUserStrategyOptions defines the strategy type and any options used to create the strategy.
type RunAsUserStrategyOptions struct {
	// rule is the strategy that will dictate the allowable RunAsUser values that may be set: MustRunAs,
	// MustRunAsNonRoot or RunAsAny.
	Rule Rule `json:"rule"`
	// ranges are the allowed ranges of uids that may be used. Required for MustRunAs.
	// +optional
	// +listType=atomic
	Ranges []IDRange `json:"ranges,omitempty"`
}

// RunAsGroupStrategyOptions defines the strategy type and any options used to create the strategy.
type RunAsGroupStrategyOptions struct {
	// rule is the strategy that will dictate the allowable RunAsGroup values that may be set: MustRunAs, MayRunAs or
	// RunAsAny.
	Rule Rule `json:"rule"`
	// ranges are the allowed ranges of gids that may be used. Required for MustRunAs and MayRunAs.
	// +optional
	// +listType=atomic
	Ranges []IDRange `json:"ranges,omitempty"`
}

// FSGroupStrategyOptions defines the strategy type and options used to create the strategy.
type FSGroupStrategyOptions struct {
	// rule is the strategy that will dictate what FSGroup is used in the SecurityContext: MustRunAs, MayRunAs or
	// RunAsAny.
	// +optional
	Rule Rule `json:"rule,omitempty"`
	// ranges are the allowed ranges of fs groups. Required for MustRunAs.
	// +optional
	// +listType=atomic
	Ranges []IDRange `json:"ranges,omitempty"`
}

// SupplementalGroupsStrategyOptions defines the strategy type and options used to create the strategy.
type SupplementalGroupsStrategyOptions struct {
	// rule is the strategy that will dictate what supplemental groups is used in the SecurityContext: MustRunAs,
	// MayRunAs or RunAsAny.
	// +optional
	Rule Rule `json:"rule,omitempty"`
	// ranges are the allowed ranges of supplemental groups. Required for MustRunAs.
	// +optional
	// +listType=atomic
	Ranges []IDRange `json:"ranges,omitempty"`
}

// RuntimeClassStrategyOptions define the strategy that will dictate the allowable RuntimeClasses for a pod.
type RuntimeClassStrategyOptions struct {
	// allowedRuntimeClassNames are the RuntimeClass names that may be specified on a pod. '*' allows any, and must then
	// be the only one. Empty requires that the pod has none.
	// +listType=atomic
	AllowedRuntimeClassNames []string `json:"allowedRuntimeClassNames"`
	// defaultRuntimeClassName is that of pods that name none. It must be an allowed one.
	// +optional
	DefaultRuntimeClassName *string `json:"defaultRuntimeClassName,omitempty"`
}
