// Package podsecuritypolicy is the admission plugin that holds Pods against PodSecurityPolicies, as that of Kubernetes 1.24
// did (plugin/pkg/admission/security/podsecuritypolicy and pkg/security/podsecuritypolicy there).
//
// Invariants: where there is no policy nothing is restricted, and the first one turns the check on for every Pod. A Pod is
// let in by one policy as a whole, which the user or the Pod's service account may use. What was let in is in the Pod: seccomp
// and AppArmor are judged by the fields that nodes go by, not by annotations that they ignore.
package podsecuritypolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/policy"
	rbacregistry "k8s.io/kubernetes/pkg/registry/rbac"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// PluginName is upstream's.
const PluginName = "PodSecurityPolicy"

// useVerb is what RBAC grants to whom a policy may let Pods in for.
const useVerb = "use"

// legacyGroup had policies before the group policy did; what was granted there still counts.
const legacyGroup = "extensions"

// Lister returns the policies that there are, which are not to be changed.
type Lister func(context.Context) ([]v1beta1.PodSecurityPolicy, error)

// Register adds the plugin.
func Register(plugins *admission.Plugins, policies Lister) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(policies), nil })
}

// Plugin is the admission plugin. It needs an authorizer.
type Plugin struct {
	*admission.Handler
	policies  Lister
	authorize authorizer.Authorizer
}

var (
	_ admission.MutationInterface       = &Plugin{}
	_ admission.ValidationInterface     = &Plugin{}
	_ initializer.WantsAuthorizer       = &Plugin{}
	_ admission.InitializationValidator = &Plugin{}
)

// New returns a plugin for these policies.
func New(policies Lister) *Plugin {
	return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update), policies: policies}
}

// SetAuthorizer implements initializer.WantsAuthorizer.
func (p *Plugin) SetAuthorizer(a authorizer.Authorizer) { p.authorize = a }

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.authorize == nil {
		return errors.New(PluginName + " requires an authorizer")
	}
	return nil
}

// Admit fills in what the policy that lets a new Pod in has defaults for, and notes the policy's name in the Pod. A policy
// that would change nothing goes before one that would, then the name decides.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	creates := a.GetOperation() == admission.Create
	if !creates && a.GetSubresource() != ephemeralSubresource {
		return nil // an update is for Validate
	}
	pod, err := subject(a)
	if pod == nil {
		return err
	}
	may := anything
	if !creates {
		may = ephemeralContainers
	}
	v, err := p.judge(ctx, a, pod, may)
	if err != nil {
		return err
	}
	if v.pod == nil {
		return v.refusal(a, "admit")
	}
	*pod = *v.pod
	if creates && v.policy != "" {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[v1beta1.ValidatedPSPAnnotation] = v.policy
	}
	return nil
}

// Validate lets in what a policy allows as it is: other plugins may have changed the Pod since, and an update may not be
// changed.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := subject(a)
	if pod == nil {
		return err
	}
	v, err := p.judge(ctx, a, pod, nothing)
	if err != nil {
		return err
	}
	if v.pod == nil {
		return v.refusal(a, "validate")
	}
	return nil
}

// ephemeralSubresource is that by which a running Pod gets more containers.
const ephemeralSubresource = "ephemeralcontainers"

// mutation is what of a Pod a policy may still change.
type mutation int

const (
	nothing mutation = iota
	ephemeralContainers
	anything
)

func (m mutation) allows(from, to *api.Pod) bool {
	if m == ephemeralContainers {
		rest := *to
		rest.Spec.EphemeralContainers = from.Spec.EphemeralContainers
		to = &rest
	}
	return m == anything || apiequality.Semantic.DeepEqual(from, to)
}

// subject is the Pod to judge, or nil where there is none.
func subject(a admission.Attributes) (*api.Pod, error) {
	if a.GetResource().GroupResource() != api.Resource("pods") || (a.GetSubresource() != "" && a.GetSubresource() != ephemeralSubresource) {
		return nil, nil
	}
	pod, ok := a.GetObject().(*api.Pod)
	if !ok {
		return nil, admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if a.GetOperation() == admission.Update &&
		rbacregistry.IsOnlyMutatingGCFields(a.GetObject(), a.GetOldObject(), apiequality.Semantic) {
		return nil, nil
	}
	return pod, nil
}

// verdict is a Pod that is let in, maybe changed, and by which policy; or why none did.
type verdict struct {
	pod    *api.Pod
	policy string
	errors []error
}

func (v verdict) refusal(a admission.Attributes, verb string) error {
	texts := make([]string, 0, len(v.errors))
	for _, err := range v.errors {
		texts = append(texts, err.Error())
	}
	return admission.NewForbidden(a, fmt.Errorf("%s: unable to %s pod: [%s]", PluginName, verb, strings.Join(texts, ", ")))
}

func (p *Plugin) judge(ctx context.Context, a admission.Attributes, pod *api.Pod, may mutation) (verdict, error) {
	policies, err := p.policies(ctx)
	if err != nil {
		return verdict{}, err
	}
	if len(policies) == 0 {
		return verdict{pod: pod}, nil
	}
	var first verdict
	refusals := map[string]field.ErrorList{}
	var tried []string
	for _, psp := range ordered(policies, pod, may) {
		changed, errs := apply(&psp, pod)
		mutated := !apiequality.Semantic.DeepEqual(pod, changed)
		if len(errs) == 0 && !may.allows(pod, changed) {
			errs = field.ErrorList{field.Forbidden(field.NewPath("spec"), "the policy would change the Pod, which may not be now")}
		}
		switch {
		case len(errs) > 0:
			tried, refusals[psp.Name] = append(tried, psp.Name), errs
		case mutated && first.pod != nil, !p.mayUse(ctx, a, pod, psp.Name):
		case !mutated:
			return verdict{pod: changed, policy: psp.Name}, nil
		default:
			first = verdict{pod: changed, policy: psp.Name}
		}
	}
	if first.pod != nil {
		return first, nil
	}
	// What a policy says is told to those who may use it only.
	var refused verdict
	for _, name := range tried {
		if !p.mayUse(ctx, a, pod, name) {
			continue
		}
		for _, err := range refusals[name] {
			refused.errors = append(refused.errors, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(refused.errors) == 0 {
		refused.errors = []error{fmt.Errorf("neither user %q nor service account %q may use any policy",
			a.GetUserInfo().GetName(), pod.Spec.ServiceAccountName)}
	}
	return refused, nil
}

// ordered sorts policies by name. That which let a Pod in before goes first where the Pod is there already.
func ordered(policies []v1beta1.PodSecurityPolicy, pod *api.Pod, may mutation) []v1beta1.PodSecurityPolicy {
	hint := pod.Annotations[v1beta1.ValidatedPSPAnnotation]
	return slices.SortedFunc(slices.Values(policies), func(a, b v1beta1.PodSecurityPolicy) int {
		switch {
		case a.Name == b.Name:
			return 0
		case may != anything && a.Name == hint:
			return -1
		case may != anything && b.Name == hint:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// mayUse says whether the Pod's service account or the user may use a policy in the Pod's namespace.
func (p *Plugin) mayUse(ctx context.Context, a admission.Attributes, pod *api.Pod, name string) bool {
	users := []user.Info{a.GetUserInfo()}
	if sa := pod.Spec.ServiceAccountName; sa != "" {
		users = []user.Info{serviceaccount.UserInfo(a.GetNamespace(), sa, ""), a.GetUserInfo()}
	}
	for _, u := range users {
		for _, group := range []string{policy.GroupName, legacyGroup} {
			decision, _, _ := p.authorize.Authorize(ctx, authorizer.AttributesRecord{
				User: u, Verb: useVerb, Namespace: a.GetNamespace(), Name: name, APIGroup: group, APIVersion: "*",
				Resource: "podsecuritypolicies", ResourceRequest: true,
			})
			if decision == authorizer.DecisionAllow {
				return true
			}
		}
	}
	return false
}
