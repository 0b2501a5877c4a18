package scheduler

import (
	"fmt"
	"math/rand/v2"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomNode(r *rand.Rand, name string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"disk": pick(r, "ssd", "hdd"), "size": pick(r, "1", "2", "3"), v1.LabelHostname: name}}}
	for _, key := range []string{"zone", "rack"} {
		if r.IntN(5) > 0 {
			n.Labels[key] = pick(r, "1", "2")
		}
	}
	for name, size := range map[string]int64{"small:1": 5 << 20, "medium:1": 200 << 20, "large:latest": 1500 << 20} {
		if r.IntN(2) == 0 {
			n.Status.Images = append(n.Status.Images, v1.ContainerImage{Names: []string{name, "example.com/" + name}, SizeBytes: size})
		}
	}
	n.Spec.Unschedulable = r.IntN(20) == 0
	for _, key := range []string{"a", "b"} {
		if r.IntN(8) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Value: pick(r, "", "v"),
				Effect: pick(r, v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)})
		}
	}
	n.Status.Allocatable = v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(pick(r, "2", "4", "7500m")), v1.ResourceMemory: resource.MustParse(pick(r, "2Gi", "4Gi", "7G")),
		v1.ResourcePods: resource.MustParse(pick(r, "2", "10")), v1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
	}
	if r.IntN(2) == 0 {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
	}
	return n
}

func randomPod(r *rand.Rand) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, "x", "y"), Labels: randomLabels(r)}}
	p.Spec.Priority = pick(r, nil, new(int32), ptr.To(int32(-5)), ptr.To(int32(10)), ptr.To(int32(20)))
	always := v1.ContainerRestartPolicyAlways
	for range 1 + r.IntN(2) {
		p.Spec.Containers = append(p.Spec.Containers, randomContainer(r))
	}
	for range r.IntN(3) {
		c := randomContainer(r)
		if r.IntN(2) == 0 {
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	if r.IntN(8) == 0 {
		p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}
	}
	if r.IntN(8) == 0 {
		// The API server's defaulting fills in what the containers ask for.
		p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m"), v1.ResourceMemory: resource.MustParse("1Gi")}}
	}
	if r.IntN(8) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": pick(r, "ssd", "hdd")}
	}
	if r.IntN(3) == 0 {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{}}
		if r.IntN(2) == 0 {
			required := &v1.NodeSelector{}
			for range 1 + r.IntN(2) {
				required.NodeSelectorTerms = append(required.NodeSelectorTerms, randomTerm(r))
			}
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
		}
		for range r.IntN(3) {
			p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
				v1.PreferredSchedulingTerm{Weight: 1 + r.Int32N(100), Preference: randomTerm(r)})
		}
	}
	randomCompany(r, p)
	if r.IntN(8) == 0 {
		p.Spec.Volumes = []v1.Volume{{VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "example.com/medium:1"}}}}
	}
	for range r.IntN(3) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: pick(r, "", "a", "b", v1.TaintNodeUnschedulable), Operator: pick(r, v1.TolerationOpExists, v1.TolerationOpEqual),
			Effect: pick(r, "", v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)})
	}
	return p
}

func randomContainer(r *rand.Rand) v1.Container {
	requests := v1.ResourceList{}
	for name, amounts := range map[v1.ResourceName][]string{
		v1.ResourceCPU: {"", "", "0", "100m", "750m", "2"}, v1.ResourceMemory: {"", "", "64Mi", "700M", "2Gi"},
		v1.ResourceEphemeralStorage: {"", "", "", "1Gi", "6Gi"}, "example.com/gpu": {"", "", "", "", "", "", "", "1"},
	} {
		if amount := pick(r, amounts...); amount != "" {
			requests[name] = resource.MustParse(amount)
		}
	}
	c := v1.Container{Image: pick(r, "none", "small:1", "medium:1", "large", "example.com/large"), Resources: v1.ResourceRequirements{Requests: requests}}
	if r.IntN(4) == 0 {
		c.Ports = []v1.ContainerPort{{HostPort: pick(r, int32(0), 80, 443), HostIP: pick(r, "", "0.0.0.0", "127.0.0.1", "10.0.0.1"), Protocol: pick(r, "", v1.ProtocolTCP, v1.ProtocolUDP)}}
	}
	return c
}

func randomTerm(r *rand.Rand) v1.NodeSelectorTerm {
	if r.IntN(4) == 0 {
		return v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn, Values: []string{pick(r, "n0", "n1", "other")}}}}
	}
	return v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{pick(r,
		v1.NodeSelectorRequirement{Key: "disk", Operator: v1.NodeSelectorOpIn, Values: []string{"ssd"}},
		v1.NodeSelectorRequirement{Key: "disk", Operator: v1.NodeSelectorOpNotIn, Values: []string{"ssd"}},
		v1.NodeSelectorRequirement{Key: "size", Operator: v1.NodeSelectorOpGt, Values: []string{"1"}},
		v1.NodeSelectorRequirement{Key: "none", Operator: v1.NodeSelectorOpExists},
		v1.NodeSelectorRequirement{Key: "none", Operator: v1.NodeSelectorOpDoesNotExist})}}
}

func randomLabels(r *rand.Rand) map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if r.IntN(4) > 0 {
			labels[key] = pick(r, "1", "2")
		}
	}
	return labels
}

func randomSelector(r *rand.Rand) *metav1.LabelSelector {
	key := pick(r, "app", "tier", "team")
	return pick(r, nil, &metav1.LabelSelector{},
		&metav1.LabelSelector{MatchLabels: map[string]string{key: "1"}},
		&metav1.LabelSelector{MatchLabels: map[string]string{key: "2"}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpExists}}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"1"}}}})
}

// randomCompany gives a Pod wishes about other Pods.
func randomCompany(r *rand.Rand, p *v1.Pod) {
	term := func() v1.PodAffinityTerm {
		t := v1.PodAffinityTerm{LabelSelector: randomSelector(r), TopologyKey: pick(r, v1.LabelHostname, "zone", "rack")}
		if r.IntN(3) == 0 {
			t.Namespaces = []string{pick(r, "x", "y")}
		}
		if r.IntN(3) == 0 {
			t.NamespaceSelector = randomSelector(r)
		}
		return t
	}
	terms := func(odds int) (terms []v1.PodAffinityTerm) {
		for r.IntN(odds) == 0 {
			terms = append(terms, term())
		}
		return terms
	}
	weighted := func(odds int) (terms []v1.WeightedPodAffinityTerm) {
		for r.IntN(odds) == 0 {
			terms = append(terms, v1.WeightedPodAffinityTerm{Weight: 1 + r.Int32N(100), PodAffinityTerm: term()})
		}
		return terms
	}
	if r.IntN(2) == 0 {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &v1.Affinity{}
		}
		p.Spec.Affinity.PodAffinity = &v1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: terms(9), PreferredDuringSchedulingIgnoredDuringExecution: weighted(3)}
		p.Spec.Affinity.PodAntiAffinity = &v1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: terms(9), PreferredDuringSchedulingIgnoredDuringExecution: weighted(3)}
	}
	for r.IntN(4) == 0 && len(p.Spec.TopologySpreadConstraints) < 3 {
		c := v1.TopologySpreadConstraint{MaxSkew: 1 + r.Int32N(2), TopologyKey: pick(r, v1.LabelHostname, "zone", "rack"), LabelSelector: randomSelector(r),
			WhenUnsatisfiable:  pick(r, v1.DoNotSchedule, v1.ScheduleAnyway),
			NodeAffinityPolicy: pick(r, nil, ptr.To(v1.NodeInclusionPolicyHonor), ptr.To(v1.NodeInclusionPolicyIgnore)),
			NodeTaintsPolicy:   pick(r, nil, ptr.To(v1.NodeInclusionPolicyHonor), ptr.To(v1.NodeInclusionPolicyIgnore))}
		if c.WhenUnsatisfiable == v1.DoNotSchedule && r.IntN(3) == 0 {
			c.MinDomains = ptr.To(1 + r.Int32N(4))
		}
		if r.IntN(3) == 0 {
			c.MatchLabelKeys = []string{pick(r, "app", "tier", "none")}
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func randomBudgets(r *rand.Rand, pods []*v1.Pod) (budgets []*policyv1.PodDisruptionBudget) {
	for i := range r.IntN(6) {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, "x", "y"), Name: fmt.Sprint(i)},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: randomSelector(r)}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: r.Int32N(2)}}
		if len(pods) > 0 && r.IntN(3) == 0 {
			b.Status.DisruptedPods = map[string]metav1.Time{pods[r.IntN(len(pods))].Name: {}}
		}
		budgets = append(budgets, b)
	}
	return budgets
}
