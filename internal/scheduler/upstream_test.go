package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodename"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeunschedulable"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/tainttoleration"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
	"peapod.dev/peapod/internal/scheduler/score"
)

// TestLikeUpstream puts random Pods before our rules and before upstream's plugins, in upstream's order. Both must let the same Nodes
// pass, refuse the others for the same reasons and with the same hope of preemption, and give the same scores.
func TestLikeUpstream(t *testing.T) {
	plugins := upstream(t)
	random := rand.New(rand.NewPCG(1, 2))
	fits, refused := 0, 0
	for round := range 3000 {
		state := cluster.NewState()
		var ours []*cluster.Node
		var theirs []fwk.NodeInfo
		for i := range 3 {
			node := randomNode(random, fmt.Sprintf("n%d", i))
			info := framework.NewNodeInfo()
			info.SetNode(node)
			for j := range random.IntN(3) {
				p := randomPod(random)
				p.UID, p.Spec.NodeName = types.UID(fmt.Sprint(i, "/", j)), node.Name
				info.AddPod(p)
				state.Place(cluster.NewPod(p), node.Name)
			}
			theirs = append(theirs, info)
			ours = append(ours, state.SetNode(node))
		}
		pod := randomPod(random)
		placed := cluster.NewPod(pod)
		var fitting []*cluster.Node
		var candidates []fwk.NodeInfo
		for i, node := range ours {
			want, evictable := plugins.filter(t, pod, theirs[i])
			var got []string
			hope := false
			for _, r := range filter.Default().Explain(placed, node) {
				got, hope = append(got, r.Text), r.Evictable
			}
			slices.Sort(got)
			if !slices.Equal(got, want) || hope != evictable {
				t.Fatalf("round %d, node %s: we say %q (evictable %t), upstream says %q (%t)\npod %+v", round, node.Name, got, hope, want, evictable, pod.Spec)
			}
			if len(got) == 0 {
				fits++
				fitting, candidates = append(fitting, node), append(candidates, theirs[i])
			} else {
				refused++
			}
		}
		if len(fitting) == 0 {
			continue
		}
		for _, rule := range score.Default() {
			if rule.Name() == "NodeResourcesFit" && pod.Spec.Resources != nil {
				continue // upstream forgets the Pod level here (getScorer sets no feature), though nowhere else
			}
			got, want := rule.Score(placed, fitting), plugins.score(t, rule.Name(), pod, candidates)
			if !slices.Equal(got, want) {
				t.Fatalf("round %d: %s gives %d, upstream %d\npod %+v", round, rule.Name(), got, want, pod.Spec)
			}
		}
	}
	if fits < 500 || refused < 500 {
		t.Errorf("%d fit, %d do not: the random Pods are too much alike", fits, refused)
	}
}

type upstreamPlugins []fwk.Plugin

// handle is all that the plugins ask of the framework.
type handle struct{ fwk.Handle }

func (handle) SharedDRAManager() fwk.SharedDRAManager { return nil }

func upstream(t *testing.T) upstreamPlugins {
	features := feature.Features{EnablePodLevelResources: true, EnableInPlacePodVerticalScaling: true, EnableInPlacePodLevelResourcesVerticalScaling: true}
	compared := []config.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}}
	var plugins upstreamPlugins
	add := func(p fwk.Plugin, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		plugins = append(plugins, p)
	}
	with := func(f func(args runtime.Object) (fwk.Plugin, error), args runtime.Object) { add(f(args)) }
	add(nodename.New(t.Context(), nil, handle{}, features))
	add(nodeunschedulable.New(t.Context(), nil, handle{}, features))
	add(tainttoleration.New(t.Context(), nil, handle{}, features))
	with(func(a runtime.Object) (fwk.Plugin, error) {
		return nodeaffinity.New(t.Context(), a, handle{}, features)
	}, &config.NodeAffinityArgs{})
	add(nodeports.New(t.Context(), nil, handle{}, features))
	with(func(a runtime.Object) (fwk.Plugin, error) {
		return noderesources.NewFit(t.Context(), a, handle{}, features)
	},
		&config.NodeResourcesFitArgs{ScoringStrategy: &config.ScoringStrategy{Type: config.LeastAllocated, Resources: compared}})
	with(func(a runtime.Object) (fwk.Plugin, error) {
		return noderesources.NewBalancedAllocation(t.Context(), a, handle{}, features)
	},
		&config.NodeResourcesBalancedAllocationArgs{Resources: compared})
	return plugins
}

// filter does what upstream's framework does with one Node.
func (plugins upstreamPlugins) filter(t *testing.T, pod *v1.Pod, node fwk.NodeInfo) (reasons []string, evictable bool) {
	state := framework.NewCycleState()
	skip := map[string]bool{}
	for _, p := range plugins {
		pre, ok := p.(fwk.PreFilterPlugin)
		if !ok {
			continue
		}
		result, status := pre.PreFilter(t.Context(), state, pod, nil)
		if status.IsSkip() {
			skip[p.Name()] = true
		} else if !status.IsSuccess() {
			t.Fatal(status)
		}
		if !result.AllNodes() && !result.NodeNames.Has(node.Node().Name) {
			return []string{fmt.Sprintf("node(s) didn't satisfy plugin(s) [%s]", p.Name())}, false
		}
	}
	for _, p := range plugins {
		f, ok := p.(fwk.FilterPlugin)
		if !ok || skip[p.Name()] {
			continue
		}
		if status := f.Filter(t.Context(), state, pod, node); !status.IsSuccess() {
			reasons = slices.Clone(status.Reasons())
			slices.Sort(reasons)
			return reasons, status.Code() == fwk.Unschedulable
		}
	}
	return nil, false
}

// score does what upstream's framework does with one plugin.
func (plugins upstreamPlugins) score(t *testing.T, name string, pod *v1.Pod, nodes []fwk.NodeInfo) []int64 {
	scores := make(fwk.NodeScoreList, len(nodes))
	for _, p := range plugins {
		s, ok := p.(fwk.ScorePlugin)
		if !ok || p.Name() != name {
			continue
		}
		state := framework.NewCycleState()
		if pre, ok := p.(fwk.PreScorePlugin); ok && pre.PreScore(t.Context(), state, pod, nodes).IsSkip() {
			break
		}
		for i, node := range nodes {
			value, status := s.Score(t.Context(), state, pod, node)
			if !status.IsSuccess() {
				t.Fatal(status)
			}
			scores[i] = fwk.NodeScore{Name: node.Node().Name, Score: value}
		}
		if e := s.ScoreExtensions(); e != nil {
			e.NormalizeScore(t.Context(), state, pod, scores)
		}
	}
	all := make([]int64, len(scores))
	for i, s := range scores {
		all[i] = s.Score
	}
	return all
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomNode(r *rand.Rand, name string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"disk": pick(r, "ssd", "hdd"), "size": pick(r, "1", "2", "3"), "kubernetes.io/hostname": name}}}
	n.Spec.Unschedulable = r.IntN(10) == 0
	for _, key := range []string{"a", "b"} {
		if r.IntN(5) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Value: pick(r, "", "v"),
				Effect: pick(r, v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)})
		}
	}
	n.Status.Allocatable = v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(pick(r, "1", "2", "3500m")), v1.ResourceMemory: resource.MustParse(pick(r, "1Gi", "2Gi", "3G")),
		v1.ResourcePods: resource.MustParse(pick(r, "2", "10")), v1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
	}
	if r.IntN(2) == 0 {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
	}
	return n
}

func randomPod(r *rand.Rand) *v1.Pod {
	p := &v1.Pod{}
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
	if r.IntN(4) == 0 {
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
		v1.ResourceEphemeralStorage: {"", "", "", "1Gi", "6Gi"}, "example.com/gpu": {"", "", "", "", "1"},
	} {
		if amount := pick(r, amounts...); amount != "" {
			requests[name] = resource.MustParse(amount)
		}
	}
	c := v1.Container{Resources: v1.ResourceRequirements{Requests: requests}}
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
