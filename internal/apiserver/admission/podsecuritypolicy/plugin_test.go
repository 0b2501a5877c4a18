package podsecuritypolicy_test

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	api "k8s.io/kubernetes/pkg/apis/core"

	"peapod.dev/peapod/internal/apiserver/admission/podsecuritypolicy"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// policy allows everything but what makes it stricter.
func policy(name string, change func(*v1beta1.PodSecurityPolicy)) v1beta1.PodSecurityPolicy {
	p := v1beta1.PodSecurityPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{v1beta1.SeccompAllowedProfilesAnnotation: "*"}},
		Spec: v1beta1.PodSecurityPolicySpec{
			Privileged: true, HostNetwork: true, HostPID: true, HostIPC: true,
			HostPorts: []v1beta1.HostPortRange{{Min: 0, Max: 65535}}, Volumes: []v1beta1.FSType{"*"}, AllowedCapabilities: all,
			SELinux: v1beta1.SELinuxStrategyOptions{Rule: v1beta1.RunAsAny}, RunAsUser: v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.RunAsAny},
			FSGroup:              v1beta1.FSGroupStrategyOptions{Rule: v1beta1.RunAsAny},
			SupplementalGroups:   v1beta1.SupplementalGroupsStrategyOptions{Rule: v1beta1.RunAsAny},
			AllowedUnsafeSysctls: []string{"*"},
		},
	}
	if change != nil {
		change(&p)
	}
	v1beta1.SetDefaults(&p)
	return p
}

func newPod(change func(*api.Pod)) *api.Pod {
	pod := &api.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns"},
		Spec: api.PodSpec{
			ServiceAccountName: "robot", SecurityContext: &api.PodSecurityContext{}, Containers: []api.Container{{Name: "c", Image: "busybox"}},
		},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// request is what is asked of the plugin, by default the creation of a Pod by alice.
type request struct {
	policies    []v1beta1.PodSecurityPolicy
	grants      map[string][]string // user: names of policies in namespace ns; nil grants alice all
	group       string              // the API group in which they are granted, by default policy
	operation   admission.Operation
	subresource string
	old         *api.Pod
}

func (r request) attributes(pod *api.Pod) admission.Attributes {
	op := r.operation
	if op == "" {
		op = admission.Create
	}
	var old runtime.Object
	if r.old != nil {
		old = r.old
	}
	return admission.NewAttributesRecord(pod, old, api.Kind("Pod").WithVersion("v1"), pod.Namespace, pod.Name,
		api.Resource("pods").WithVersion("v1"), r.subresource, op, nil, false, &user.DefaultInfo{Name: "alice"})
}

func (r request) plugin(t *testing.T) *podsecuritypolicy.Plugin {
	t.Helper()
	p := podsecuritypolicy.New(func(context.Context) ([]v1beta1.PodSecurityPolicy, error) { return r.policies, nil })
	p.SetAuthorizer(authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetVerb() != "use" || a.GetResource() != "podsecuritypolicies" || a.GetAPIGroup() != cmp.Or(r.group, "policy") || a.GetNamespace() != "ns" || !a.IsResourceRequest() {
			return authorizer.DecisionNoOpinion, "", nil
		}
		if r.grants == nil && a.GetUser().GetName() == "alice" || slices.Contains(r.grants[a.GetUser().GetName()], a.GetName()) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}))
	if err := p.ValidateInitialization(); err != nil {
		t.Fatal(err)
	}
	return p
}

// run sends a Pod through both phases.
func (r request) run(t *testing.T, pod *api.Pod) (*api.Pod, error) {
	t.Helper()
	p, a := r.plugin(t), r.attributes(pod)
	if err := p.Admit(t.Context(), a, nil); err != nil {
		return nil, err
	}
	return pod, p.Validate(t.Context(), a, nil)
}

func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("admitted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}

func TestNothingIsRestrictedWithoutAPolicy(t *testing.T) {
	yes := true
	pod, err := request{grants: map[string][]string{}}.run(t, newPod(func(p *api.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].SecurityContext = &api.SecurityContext{Privileged: &yes}
	}))
	if err != nil || len(pod.Annotations) != 0 {
		t.Errorf("got %v, %v", pod, err)
	}
}

func TestFirstPolicyTurnsTheCheckOn(t *testing.T) {
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("any", nil)}, grants: map[string][]string{}}
	_, err := r.run(t, newPod(nil))
	refused(t, err, `pods "x" is forbidden: PodSecurityPolicy: unable to admit pod: [neither user "alice" nor service account "robot" may use any policy]`)
}

func TestWhoMayUseAPolicy(t *testing.T) {
	for _, who := range []string{"alice", "system:serviceaccount:ns:robot"} {
		r := request{policies: []v1beta1.PodSecurityPolicy{policy("any", nil)}, grants: map[string][]string{who: {"any"}}}
		pod, err := r.run(t, newPod(nil))
		if err != nil || pod.Annotations["kubernetes.io/psp"] != "any" {
			t.Errorf("%s: %v, %v", who, pod, err)
		}
	}
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("any", nil)}, group: "extensions"}
	if _, err := r.run(t, newPod(nil)); err != nil {
		t.Errorf("granted in the group that policies were in first: %v", err)
	}
	r = request{policies: []v1beta1.PodSecurityPolicy{policy("any", nil)}, grants: map[string][]string{"system:serviceaccount:other:robot": {"any"}}}
	if _, err := r.run(t, newPod(nil)); err == nil {
		t.Error("the service account of another namespace counts")
	}
}

// TestHostPorts holds both ends of each range, and what lies next to them, in every kind of container.
func TestHostPorts(t *testing.T) {
	ranges := []v1beta1.HostPortRange{{Min: 443, Max: 443}, {Min: 8000, Max: 8080}}
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("ports", func(p *v1beta1.PodSecurityPolicy) { p.Spec.HostPorts = ranges })}}
	kinds := map[string]func(*api.Pod, api.ContainerPort){
		"containers": func(p *api.Pod, port api.ContainerPort) { p.Spec.Containers[0].Ports = []api.ContainerPort{port} },
		"initContainers": func(p *api.Pod, port api.ContainerPort) {
			p.Spec.InitContainers = []api.Container{{Name: "i", Ports: []api.ContainerPort{port}}}
		},
		"ephemeralContainers": func(p *api.Pod, port api.ContainerPort) {
			p.Spec.EphemeralContainers = []api.EphemeralContainer{{
				EphemeralContainerCommon: api.EphemeralContainerCommon{Name: "e", Ports: []api.ContainerPort{port}},
			}}
		},
	}
	allowed := map[int32]bool{442: false, 443: true, 444: false, 7999: false, 8000: true, 8040: true, 8080: true, 8081: false, 1: false, 65535: false}
	for kind, set := range kinds {
		for port, want := range allowed {
			for _, host := range []bool{false, true} { // named, or implied by the host's network
				pod := newPod(func(p *api.Pod) {
					p.Spec.HostNetwork = host
					if host {
						set(p, api.ContainerPort{ContainerPort: port})
					} else {
						set(p, api.ContainerPort{ContainerPort: 80, HostPort: port})
					}
				})
				_, err := r.run(t, pod)
				if want && err != nil {
					t.Errorf("%s %d (host network %v): %v", kind, port, host, err)
				}
				if !want {
					refused(t, err, "ports: spec."+kind+"[0].hostPort: Invalid value: ", "is not allowed to be used. Allowed ports: [443,8000-8080]")
				}
			}
		}
	}
	if _, err := r.run(t, newPod(func(p *api.Pod) { p.Spec.Containers[0].Ports = []api.ContainerPort{{ContainerPort: 80}} })); err != nil {
		t.Errorf("a port of the Pod's own network: %v", err)
	}
}

func TestNoHostPortIsAllowedByDefault(t *testing.T) {
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("none", func(p *v1beta1.PodSecurityPolicy) { p.Spec.HostPorts = nil })}}
	_, err := r.run(t, newPod(func(p *api.Pod) { p.Spec.Containers[0].Ports = []api.ContainerPort{{ContainerPort: 80, HostPort: 80}} }))
	refused(t, err, "[none: spec.containers[0].hostPort: Invalid value: 80: Host port 80 is not allowed to be used. Allowed ports: []]")
}

func TestRefusalNamesEveryFieldAndPolicy(t *testing.T) {
	strict := func(p *v1beta1.PodSecurityPolicy) {
		p.Spec.Privileged, p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC, p.Spec.HostPorts = false, false, false, false, nil
	}
	yes := true
	pod := newPod(func(p *api.Pod) {
		p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
		p.Spec.Containers[0].SecurityContext = &api.SecurityContext{Privileged: &yes}
		p.Spec.Containers[0].Ports = []api.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	})
	r := request{
		policies: []v1beta1.PodSecurityPolicy{policy("b", strict), policy("secret", strict), policy("a", strict)},
		grants:   map[string][]string{"alice": {"a"}, "system:serviceaccount:ns:robot": {"b"}},
	}
	_, err := r.run(t, pod)
	for _, name := range []string{"a", "b"} {
		refused(t, err, name+": spec.securityContext.hostNetwork: Invalid value: true: Host network is not allowed to be used",
			name+": spec.securityContext.hostPID: Invalid value: true: Host PID is not allowed to be used",
			name+": spec.securityContext.hostIPC: Invalid value: true: Host IPC is not allowed to be used",
			name+": spec.containers[0].securityContext.privileged: Invalid value: true: Privileged containers are not allowed",
			name+": spec.containers[0].hostPort: Invalid value: 80")
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a policy is told to who may not use it: %v", err)
	}
	if strings.Index(err.Error(), "a: ") > strings.Index(err.Error(), "b: ") {
		t.Errorf("not by name: %v", err)
	}
}

func TestPolicyThatChangesNothingGoesFirst(t *testing.T) {
	fills := func(id int64) func(*v1beta1.PodSecurityPolicy) {
		return func(p *v1beta1.PodSecurityPolicy) {
			p.Spec.RunAsUser = v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: []v1beta1.IDRange{{Min: id, Max: id}}}
		}
	}
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("c", nil), policy("b", fills(2)), policy("a", fills(1))}}
	pod, err := r.run(t, newPod(nil))
	if err != nil || pod.Annotations["kubernetes.io/psp"] != "c" || pod.Spec.Containers[0].SecurityContext != nil {
		t.Errorf("got %v, %v", pod, err)
	}
	r.policies = r.policies[1:] // then the first by name
	pod, err = r.run(t, newPod(nil))
	if err != nil || pod.Annotations["kubernetes.io/psp"] != "a" || *pod.Spec.Containers[0].SecurityContext.RunAsUser != 1 {
		t.Errorf("got %v, %v", pod, err)
	}
	r.grants = map[string][]string{"alice": {"b"}}
	pod, err = r.run(t, newPod(nil))
	if err != nil || pod.Annotations["kubernetes.io/psp"] != "b" || *pod.Spec.Containers[0].SecurityContext.RunAsUser != 2 {
		t.Errorf("got %v, %v", pod, err)
	}
}

func TestUpdate(t *testing.T) {
	ranges := func(p *v1beta1.PodSecurityPolicy) {
		p.Spec.RunAsUser = v1beta1.RunAsUserStrategyOptions{Rule: v1beta1.MustRunAs, Ranges: []v1beta1.IDRange{{Min: 5, Max: 5}}}
	}
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("five", ranges)}, operation: admission.Update, old: newPod(nil)}
	labelled := func(p *api.Pod) { p.Labels = map[string]string{"a": "b"} }
	_, err := r.run(t, newPod(labelled))
	refused(t, err, "unable to validate pod: [five: spec: Forbidden: the policy would change the Pod, which may not be now]")

	five := int64(5)
	same := newPod(func(p *api.Pod) {
		labelled(p)
		p.Spec.Containers[0].SecurityContext = &api.SecurityContext{RunAsUser: &five}
	})
	if _, err := r.run(t, same); err != nil {
		t.Error(err)
	}
	if _, err := r.run(t, newPod(func(p *api.Pod) { p.Finalizers = []string{"a.b/c"} })); err != nil {
		t.Errorf("finalizers and owners are free: %v", err)
	}
	r.subresource = "status"
	if _, err := r.run(t, newPod(labelled)); err != nil {
		t.Errorf("a status is free: %v", err)
	}
}

func TestEphemeralContainers(t *testing.T) {
	drop := func(p *v1beta1.PodSecurityPolicy) {
		p.Spec.RequiredDropCapabilities, p.Spec.AllowedCapabilities = net, nil
	}
	old := newPod(func(p *api.Pod) {
		p.Spec.Containers[0].SecurityContext = &api.SecurityContext{Capabilities: &api.Capabilities{Drop: []api.Capability{"NET_RAW"}}}
	})
	r := request{policies: []v1beta1.PodSecurityPolicy{policy("drop", drop)}, operation: admission.Update, subresource: "ephemeralcontainers", old: old}
	debug := old.DeepCopy()
	debug.Spec.EphemeralContainers = []api.EphemeralContainer{{EphemeralContainerCommon: api.EphemeralContainerCommon{Name: "e"}}}
	pod, err := r.run(t, debug)
	if err != nil {
		t.Fatal(err)
	}
	if c := pod.Spec.EphemeralContainers[0].SecurityContext; c == nil || c.Capabilities == nil || !slices.Equal(c.Capabilities.Drop, []api.Capability{"NET_RAW"}) {
		t.Errorf("the new container has no defaults: %v", c)
	}
	adds := old.DeepCopy()
	adds.Spec.EphemeralContainers = []api.EphemeralContainer{{EphemeralContainerCommon: api.EphemeralContainerCommon{
		Name: "e", SecurityContext: &api.SecurityContext{Capabilities: &api.Capabilities{Add: []api.Capability{"SYS_ADMIN"}}},
	}}}
	_, err = r.run(t, adds)
	refused(t, err, `drop: spec.ephemeralContainers[0].securityContext.capabilities.add: Invalid value: "SYS_ADMIN": capability may not be added`)
}
