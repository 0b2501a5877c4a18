// Package admit decides whether a node takes a Pod that is bound to it.
//
// The checks are the kubelet's own (pkg/kubelet/lifecycle, pkg/kubelet/sysctl and pkg/kubelet/eviction
// of Kubernetes 1.37), in its order and with its reasons and messages. They matter for Pods that no
// scheduler has looked at, or that raced with a change of the node. A refused Pod becomes Failed.
//
// Invariant: Admit is pure. It does no I/O, reads no clock and changes none of its arguments; the same
// input gives the same answer.
package admit

import (
	"fmt"
	"runtime"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Reasons for which a Pod is refused, as users see them in status.reason and in the event.
// A lack of a resource is ReasonOutOf followed by its name: OutOfcpu, OutOfmemory, OutOfpods, …
const (
	ReasonEvicted                  = "Evicted"
	ReasonSysctlForbidden          = "SysctlForbidden"
	ReasonOSSelectorMismatch       = "PodOSSelectorNodeLabelDoesNotMatch"
	ReasonOSNotSupported           = "PodOSNotSupported"
	ReasonSupplementalGroupsPolicy = "SupplementalGroupsPolicyNotSupported"
	ReasonOutOf                    = "OutOf"
	ReasonNodeAffinity             = "NodeAffinity"
	ReasonNodeName                 = "NodeName"
	ReasonNodePorts                = "NodePorts"
	ReasonTaintToleration          = "TaintToleration"
	ReasonAppArmor                 = "AppArmor"
)

// Options are the facts about this machine and its configuration that the node object does not carry.
type Options struct {
	// AllowedUnsafeSysctls are names, or prefixes that end in "*", allowed besides the safe ones.
	AllowedUnsafeSysctls []string
	// Kernel is the running kernel's version: some sysctls are safe only from a certain one on.
	// Nil means unknown; then only those safe on every kernel count as safe.
	Kernel *version.Version
	// AppArmor says whether the machine enforces AppArmor profiles.
	AppArmor bool
}

// refusal is why a Pod may not run here; nil means that a check has no objection.
type refusal struct{ reason, message string }

// Admit reports whether node takes pod while the Pods in others (those of the node that are not
// terminal, without pod itself) are there. When not, reason and message are those for the event; the
// kubelet prefixes the status message with "Pod was rejected: ".
func Admit(node *v1.Node, others []*v1.Pod, pod *v1.Pod, opts Options) (ok bool, reason, message string) {
	checks := []func() *refusal{
		func() *refusal { return pressure(node, pod) },
		func() *refusal { return sysctls(pod, opts) },
		func() *refusal { return operatingSystem(node, pod) },
		func() *refusal { return supplementalGroups(node, pod) },
		func() *refusal { return resources(node, others, pod) },
		func() *refusal { return placement(node, others, pod) },
		func() *refusal { return appArmor(pod, opts) },
	}
	for _, check := range checks {
		if r := check(); r != nil {
			return false, r.reason, r.message
		}
	}
	return true, "", ""
}

// pressure keeps new Pods off a node that is short of something: all of them, or, if it is only
// memory, the best-effort ones that do not tolerate that.
func pressure(node *v1.Node, pod *v1.Pod) *refusal {
	var under []v1.NodeConditionType
	for _, c := range node.Status.Conditions {
		switch c.Type {
		case v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure:
			if c.Status == v1.ConditionTrue {
				under = append(under, c.Type)
			}
		}
	}
	if len(under) == 0 || isCritical(pod) {
		return nil
	}
	if len(under) == 1 && under[0] == v1.NodeMemoryPressure {
		taint := &v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qos.GetPodQOS(pod) != v1.PodQOSBestEffort ||
			corev1.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false) {
			return nil
		}
	}
	return &refusal{ReasonEvicted, fmt.Sprintf("The node had condition: %v. ", under)}
}

// systemCriticalPriority is the lowest priority that counts as critical (pkg/apis/scheduling).
const systemCriticalPriority = 2_000_000_000

func isCritical(pod *v1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalPriority
}

func operatingSystem(node *v1.Node, pod *v1.Pod) *refusal {
	// A node label that says otherwise is wrong and about to be corrected, so only the Pod's counts.
	if os, set := pod.Labels[v1.LabelOSStable]; set && os != runtime.GOOS {
		return &refusal{ReasonOSSelectorMismatch, "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if os := pod.Spec.OS; os != nil && string(os.Name) != runtime.GOOS {
		return &refusal{ReasonOSNotSupported, "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

func supplementalGroups(node *v1.Node, pod *v1.Pod) *refusal {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict {
		return nil
	}
	if f := node.Status.Features; f != nil && f.SupplementalGroupsPolicy != nil && *f.SupplementalGroupsPolicy {
		return nil
	}
	return &refusal{ReasonSupplementalGroupsPolicy,
		fmt.Sprintf("SupplementalGroupsPolicy=%s is not supported in this node", v1.SupplementalGroupsPolicyStrict)}
}

// placement holds the scheduler's rules that stay true for a Pod whose nodeName the user set.
func placement(node *v1.Node, others []*v1.Pod, pod *v1.Pod) *refusal {
	if match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); !match || err != nil {
		return predicate(ReasonNodeAffinity, "node(s) didn't match Pod's node affinity/selector")
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return predicate(ReasonNodeName, "node(s) didn't match the requested node name")
	}
	if portConflict(others, pod) {
		return predicate(ReasonNodePorts, "node(s) didn't have free ports for the requested pod ports")
	}
	// Taints with other effects are the scheduler's business only. Static Pods ignore taints.
	noExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, untolerated := corev1.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, noExecute, false); untolerated && !isStatic(pod) {
		return predicate(ReasonTaintToleration, "node(s) had taints that the pod didn't tolerate")
	}
	return nil
}

func predicate(name, why string) *refusal {
	return &refusal{name, fmt.Sprintf("Predicate %s failed: %s", name, why)}
}

// isStatic tells Pods that came from anywhere but the API server.
func isStatic(pod *v1.Pod) bool {
	source, set := pod.Annotations["kubernetes.io/config.source"]
	return set && source != "api"
}

// portConflict reports whether pod wants a host port that one of others holds. Two ports conflict
// when protocol and number are equal and either address is the wildcard or both are the same.
func portConflict(others []*v1.Pod, pod *v1.Pod) bool {
	wanted := hostPorts(pod)
	if len(wanted) == 0 {
		return false
	}
	for _, other := range others {
		for _, used := range hostPorts(other) {
			for _, want := range wanted {
				if used.number == want.number && used.protocol == want.protocol &&
					(used.ip == want.ip || used.ip == wildcardIP || want.ip == wildcardIP) {
					return true
				}
			}
		}
	}
	return false
}

const wildcardIP = "0.0.0.0"

type hostPort struct {
	ip       string
	protocol v1.Protocol
	number   int32
}

// hostPorts lists what the containers that live as long as the Pod take of the node's ports.
func hostPorts(pod *v1.Pod) []hostPort {
	var ports []hostPort
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			hp := hostPort{ip: p.HostIP, protocol: p.Protocol, number: p.HostPort}
			if hp.ip == "" {
				hp.ip = wildcardIP
			}
			if hp.protocol == "" {
				hp.protocol = v1.ProtocolTCP
			}
			ports = append(ports, hp)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// appArmor refuses profiles that would silently not be enforced.
func appArmor(pod *v1.Pod, opts Options) *refusal {
	// A Pod that already ran here was admitted once; what runs is not looked at again.
	if pod.Status.Phase != v1.PodPending && pod.Status.Phase != "" {
		return nil
	}
	profiles := appArmorProfiles(pod)
	confined := false
	for _, p := range profiles {
		confined = confined || p.Type != v1.AppArmorProfileTypeUnconfined
	}
	if !confined {
		return nil
	}
	if !opts.AppArmor {
		return &refusal{ReasonAppArmor, "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	for _, p := range profiles {
		if p.Type == v1.AppArmorProfileTypeLocalhost && (p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == "") {
			return &refusal{ReasonAppArmor, fmt.Sprintf("Cannot enforce AppArmor: invalid empty AppArmor profile name: %q", p)}
		}
	}
	return nil
}

// appArmorProfiles collects the profiles of the Pod and of every container. The API server keeps the
// deprecated annotations and the fields in step, so the fields are enough.
func appArmorProfiles(pod *v1.Pod) []*v1.AppArmorProfile {
	var profiles []*v1.AppArmorProfile
	if sc := pod.Spec.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		profiles = append(profiles, sc.AppArmorProfile)
	}
	add := func(sc *v1.SecurityContext) {
		if sc != nil && sc.AppArmorProfile != nil {
			profiles = append(profiles, sc.AppArmorProfile)
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].SecurityContext)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	return profiles
}
