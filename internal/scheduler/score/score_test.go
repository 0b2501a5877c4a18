package score

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

func pod(cpu, memory string) *v1.Pod {
	requests := v1.ResourceList{}
	if cpu != "" {
		requests[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		requests[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: requests}}}}}
}

// nodes returns Nodes of 4 cores and 8000 MB, on each of which a Pod of those requests runs.
func nodes(on ...*v1.Pod) []*cluster.Node {
	state := cluster.NewState()
	var all []*cluster.Node
	for i, p := range on {
		name := string(rune('a' + i))
		node, _ := state.SetNode(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8000M")}}})
		all = append(all, node)
		if p != nil {
			p.UID = types.UID(name)
			state.Place(cluster.NewPod(p), name)
		}
	}
	return all
}

func check(t *testing.T, rule Rule, p *v1.Pod, nodes []*cluster.Node, want ...int64) {
	t.Helper()
	preference := rule.Prepare(cluster.NewPod(p), cluster.NewState())
	if preference == nil {
		if len(want) > 0 {
			t.Errorf("%s has no preference, want %d", rule.Name(), want)
		}
		return
	}
	if got := preference.Score(nodes); !slices.Equal(got, want) {
		t.Errorf("%s gives %d, want %d", rule.Name(), got, want)
	}
	if preference.Explain(nodes[0]) == "" {
		t.Errorf("%s explains nothing", rule.Name())
	}
}

func TestLeastAllocated(t *testing.T) {
	// cpu (4-1-1)/4 = 50, memory (8-2-1)/8 = 62 → 56; empty: cpu 75, memory 87 → 81; full: cpu 0, memory 0
	check(t, LeastAllocated{}, pod("1", "1000M"), nodes(pod("1", "2000M"), nil, pod("4", "8000M")), 56, 81, 0)
}

func TestLeastAllocatedEstimatesWhatIsNotSaid(t *testing.T) {
	// 100m and 200Mi are taken for each Pod: cpu (4000-200)/4000 = 95, memory (8000M-400Mi)/8000M = 94.
	check(t, LeastAllocated{}, pod("", ""), nodes(pod("", "")), 94)
}

func TestBalancedAllocation(t *testing.T) {
	// Uneven use (50% cpu, 0 memory) is evened out on the first and upset on the second.
	check(t, BalancedAllocation{}, pod("", "4000M"), nodes(pod("2", ""), nil), 87, 62)
	check(t, BalancedAllocation{}, pod("", ""), nodes(pod("2", ""), nil))
}

func TestTaints(t *testing.T) {
	all := nodes(nil, nil, nil)
	avoid := v1.Taint{Key: "avoid", Effect: v1.TaintEffectPreferNoSchedule}
	hard := v1.Taint{Key: "hard", Effect: v1.TaintEffectNoSchedule}
	all[1].Spec.Taints = []v1.Taint{avoid, hard}
	all[2].Spec.Taints = []v1.Taint{avoid, {Key: "too", Effect: v1.TaintEffectPreferNoSchedule}}
	check(t, Taints{}, pod("", ""), all, 100, 50, 0)
	tolerant := pod("", "")
	tolerant.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
	check(t, Taints{}, tolerant, all, 100, 100, 100)
}

func TestNodeAffinity(t *testing.T) {
	all := nodes(nil, nil, nil)
	all[1].Labels = map[string]string{"disk": "ssd"}
	all[2].Labels = map[string]string{"disk": "ssd", "zone": "a"}
	p := pod("", "")
	check(t, NodeAffinity{}, p, all)
	term := func(weight int32, key string) v1.PreferredSchedulingTerm {
		return v1.PreferredSchedulingTerm{Weight: weight, Preference: v1.NodeSelectorTerm{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: key, Operator: v1.NodeSelectorOpExists}}}}
	}
	p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{term(1, "disk"), term(3, "zone")}}}
	check(t, NodeAffinity{}, p, all, 0, 25, 100)
}

func TestDefaultAddsUpWithWeights(t *testing.T) {
	all := nodes(nil, nil)
	all[1].Spec.Taints = []v1.Taint{{Key: "avoid", Effect: v1.TaintEffectPreferNoSchedule}}
	got := Default().Prepare(cluster.NewPod(pod("", "")), cluster.NewState()).Score(all)
	if got[0]-got[1] != 300 {
		t.Errorf("got %d: a taint to avoid weighs 3 times 100", got)
	}
}
