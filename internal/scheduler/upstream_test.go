package scheduler

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/imagelocality"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodename"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeunschedulable"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/tainttoleration"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/utils/ptr"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/preempt"
	"peapod.dev/peapod/internal/scheduler/score"
)

// TestLikeUpstream puts random Pods in random clusters before our rules and before upstream's plugins in upstream's framework. Both must
// let the same Nodes pass, refuse the others for the same reasons and with the same hope of preemption, give the same scores, and
// choose the same victims.
func TestLikeUpstream(t *testing.T) {
	u := newUpstream(t)
	random := rand.New(rand.NewPCG(1, 2))
	var seen struct{ fits, refused, evicted, useless, violations, scored int }
	for round := range 3000 {
		ctx, cancel := context.WithCancel(t.Context()) // ends what the framework has begun
		s := u.scene(random)
		ours := newCycle(s.state).prepare(s.pod)
		fw := u.framework(ctx, s)
		theirState := framework.NewCycleState()
		names, status, _ := fw.RunPreFilterPlugins(t.Context(), theirState, s.pod.Pod)
		if !status.IsSuccess() {
			t.Fatal(status)
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("round %d: %s\npod %+v", round, fmt.Sprintf(format, args...), s.pod.Pod)
		}
		refused := &fitError{nodes: len(s.nodes), reasons: map[string]int{}}
		var fitting []*cluster.Node
		var candidates, evictable []fwk.NodeInfo
		for _, node := range s.state.Nodes() {
			info, err := s.snapshot.Get(node.Name)
			if err != nil {
				t.Fatal(err)
			}
			reasons := ours.checks.Explain(node)
			var got, want []string
			for _, r := range reasons {
				got = append(got, r.Text)
			}
			slices.Sort(got)
			hope := false
			if !names.AllNodes() && !names.NodeNames.Has(node.Name) {
				want = []string{"node(s) didn't satisfy plugin(s) [NodeAffinity]"}
			} else if status := fw.RunFilterPluginsWithNominatedPods(t.Context(), theirState, s.pod.Pod, info); !status.IsSuccess() {
				want, hope = slices.Clone(status.Reasons()), status.Code() == fwk.Unschedulable
				slices.Sort(want)
			}
			if !slices.Equal(got, want) || len(got) > 0 && reasons[0].Evictable != hope {
				fail("node %s: we say %+v, upstream says %q (%t)", node.Name, reasons, want, hope)
			}
			if len(got) == 0 {
				seen.fits++
				fitting, candidates = append(fitting, node), append(candidates, info)
				continue
			}
			seen.refused++
			refused.add(node, reasons)
			if hope {
				evictable = append(evictable, info)
			}
		}
		if len(fitting) > 0 {
			seen.scored += u.compareScores(t, fail, s, fw, theirState, fitting, candidates)
			cancel()
			continue
		}
		plan, reasons := preempt.Find(ours.checks, refused.evictable, len(s.nodes), s.budgets)
		switch theirs, whys := u.preempt(t, s, fw, theirState, evictable); {
		case (plan == nil) != (theirs == ""):
			fail("we evict %v, upstream %s", plan, theirs)
		case plan == nil:
			seen.useless++
			if !maps.Equal(reasons, whys) {
				fail("we evict nobody because of %v, upstream of %v", reasons, whys)
			}
		default:
			seen.evicted++
			seen.violations += plan.Violations
			if got := describe(plan.Node.Name, plan.Violations, plan.Victims); got != theirs {
				fail("we evict %s, upstream %s", got, theirs)
			}
		}
		cancel()
	}
	t.Logf("%+v", seen)
	if seen.fits < 500 || seen.refused < 500 || seen.evicted < 200 || seen.useless < 200 || seen.violations < 50 || seen.scored < 1000 {
		t.Errorf("the random Pods are too much alike: %+v", seen)
	}
}

// scene is the same cluster for us and for upstream.
type scene struct {
	pod       *cluster.Pod
	nodes     []*v1.Node
	state     *cluster.State
	snapshot  *cache.Snapshot
	nominated map[string][]fwk.PodInfo
	budgets   []*policyv1.PodDisruptionBudget
}

type upstream struct {
	informers informers.SharedInformerFactory
	client    *fake.Clientset
	features  feature.Features
	spaces    []*v1.Namespace
}

func newUpstream(t *testing.T) *upstream {
	metrics.Register()
	u := &upstream{client: fake.NewClientset(), features: feature.Features{
		EnablePodLevelResources: true, EnableInPlacePodVerticalScaling: true, EnableInPlacePodLevelResourcesVerticalScaling: true,
		EnableNodeInclusionPolicyInPodTopologySpread: true, EnableMatchLabelKeysInPodTopologySpread: true, EnableAsyncPreemption: true}}
	u.informers = informers.NewSharedInformerFactory(u.client, 0)
	for name, team := range map[string]string{"x": "1", "y": "2"} {
		ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
		u.spaces = append(u.spaces, ns)
		if err := u.informers.Core().V1().Namespaces().Informer().GetIndexer().Add(ns); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *upstream) scene(random *rand.Rand) *scene {
	s := &scene{state: cluster.NewState(), nominated: map[string][]fwk.PodInfo{}}
	for _, ns := range u.spaces {
		s.state.SetNamespace(ns.Name, ns.Labels)
	}
	var pods []*v1.Pod
	for i := range 3 + random.IntN(3) {
		node := randomNode(random, fmt.Sprintf("n%d", i))
		s.nodes = append(s.nodes, node)
		s.state.SetNode(node)
		for j := range random.IntN(4) {
			p := randomPod(random)
			p.Name = fmt.Sprint(i, "-", j)
			p.UID, p.Spec.NodeName = types.UID(p.Name), node.Name
			start := metav1.NewTime(time.Unix(int64(random.IntN(1000)*100+i*10+j), 0))
			p.Status.StartTime = &start
			keepPortsApart(s.state.Node(node.Name), p)
			pods = append(pods, p)
			s.state.Place(cluster.NewPod(p), node.Name)
		}
		if random.IntN(6) == 0 {
			p := randomPod(random)
			p.Name, p.UID = "nominated", types.UID(fmt.Sprint("nominated", i))
			keepPortsApart(s.state.Node(node.Name), p)
			if p.Spec.Affinity != nil {
				// Upstream forgets whom a nominated Pod cannot bear as long as no other Pod anywhere has such a term.
				p.Spec.Affinity.PodAntiAffinity = nil
			}
			info, _ := framework.NewPodInfo(p)
			s.nominated[node.Name] = append(s.nominated[node.Name], info)
			s.state.Nominate(cluster.NewPod(p), node.Name)
		}
	}
	s.budgets = randomBudgets(random, pods)
	pod := randomPod(random)
	pod.Name, pod.UID = "new", "new"
	pod.Spec.Priority = pick(random, nil, ptr.To(int32(20)), ptr.To(int32(30)))
	s.pod, s.snapshot = cluster.NewPod(pod), cache.NewSnapshot(pods, s.nodes)
	return s
}

// keepPortsApart takes the host ports from a Pod that could not be on a Node: upstream forgets a port that two Pods hold when one goes.
func keepPortsApart(node *cluster.Node, p *v1.Pod) {
	if !slices.ContainsFunc(cluster.NewPod(p).Ports, node.Taken) {
		return
	}
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			list[i].Ports = nil
		}
	}
}

// nominator tells upstream which Pods are nominated.
type nominator struct {
	fwk.PodNominator
	pods map[string][]fwk.PodInfo
}

func (n nominator) NominatedPodsForNode(name string) []fwk.PodInfo { return n.pods[name] }

// framework is upstream's with the default profile, but for volumes and dynamic resources.
func (u *upstream) framework(ctx context.Context, s *scene) framework.Framework {
	compared := []config.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}}
	registry := frameworkruntime.Registry{
		names.PrioritySort:                    queuesort.New,
		names.DefaultBinder:                   defaultbinder.New,
		names.ImageLocality:                   imagelocality.New,
		names.NodeName:                        frameworkruntime.FactoryAdapter(u.features, nodename.New),
		names.NodePorts:                       frameworkruntime.FactoryAdapter(u.features, nodeports.New),
		names.TaintToleration:                 frameworkruntime.FactoryAdapter(u.features, tainttoleration.New),
		names.NodeAffinity:                    frameworkruntime.FactoryAdapter(u.features, nodeaffinity.New),
		names.NodeResourcesFit:                frameworkruntime.FactoryAdapter(u.features, noderesources.NewFit),
		names.NodeUnschedulable:               frameworkruntime.FactoryAdapter(u.features, nodeunschedulable.New),
		names.PodTopologySpread:               frameworkruntime.FactoryAdapter(u.features, podtopologyspread.New),
		names.InterPodAffinity:                frameworkruntime.FactoryAdapter(u.features, interpodaffinity.New),
		names.NodeResourcesBalancedAllocation: frameworkruntime.FactoryAdapter(u.features, noderesources.NewBalancedAllocation),
	}
	profile := &config.KubeSchedulerProfile{SchedulerName: "upstream", Plugins: &config.Plugins{}, PluginConfig: []config.PluginConfig{
		{Name: names.NodeAffinity, Args: &config.NodeAffinityArgs{}},
		{Name: names.NodeResourcesFit, Args: &config.NodeResourcesFitArgs{ScoringStrategy: &config.ScoringStrategy{Type: config.LeastAllocated, Resources: compared}}},
		{Name: names.NodeResourcesBalancedAllocation, Args: &config.NodeResourcesBalancedAllocationArgs{Resources: compared}},
		{Name: names.PodTopologySpread, Args: &config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting}},
		{Name: names.InterPodAffinity, Args: &config.InterPodAffinityArgs{HardPodAffinityWeight: 1}},
	}}
	for _, name := range []string{names.PrioritySort, names.DefaultBinder, names.NodeName, names.NodeUnschedulable, names.TaintToleration, names.NodeAffinity,
		names.NodePorts, names.NodeResourcesFit, names.PodTopologySpread, names.InterPodAffinity, names.NodeResourcesBalancedAllocation, names.ImageLocality} {
		profile.Plugins.MultiPoint.Enabled = append(profile.Plugins.MultiPoint.Enabled, config.Plugin{Name: name, Weight: 1})
	}
	fw, err := frameworkruntime.NewFramework(ctx, registry, profile,
		frameworkruntime.WithSnapshotSharedLister(s.snapshot), frameworkruntime.WithMutableSnapshotLister(s.snapshot),
		frameworkruntime.WithInformerFactory(u.informers), frameworkruntime.WithClientSet(u.client),
		frameworkruntime.WithPodNominator(nominator{pods: s.nominated}), frameworkruntime.WithParallelism(1))
	if err != nil {
		panic(err)
	}
	return fw
}

// compareScores returns how many lists of scores were more than a constant.
func (u *upstream) compareScores(t *testing.T, fail func(string, ...any), s *scene, fw framework.Framework, state fwk.CycleState,
	nodes []*cluster.Node, infos []fwk.NodeInfo) (interesting int) {
	if status := fw.RunPreScorePlugins(t.Context(), state, s.pod.Pod, infos); !status.IsSuccess() && !status.IsSkip() {
		t.Fatal(status)
	}
	scores, status := fw.RunScorePlugins(t.Context(), state, s.pod.Pod, infos)
	if !status.IsSuccess() {
		t.Fatal(status)
	}
	theirs := map[string][]int64{}
	for _, node := range scores {
		for _, one := range node.Scores {
			theirs[one.Name] = append(theirs[one.Name], one.Score)
		}
	}
	for _, rule := range score.Default() {
		if rule.Name() == "NodeResourcesFit" && s.pod.Spec.Resources != nil {
			continue // upstream forgets the Pod level here (getScorer sets no feature), though nowhere else
		}
		var ours []int64
		if preference := rule.Prepare(s.pod, s.state); preference != nil {
			ours = preference.Score(nodes)
		}
		want := theirs[rule.Name()]
		switch {
		case constant(ours) && constant(want):
		case !slices.Equal(ours, want):
			fail("%s gives %d, upstream %d", rule.Name(), ours, want)
		default:
			interesting++
		}
	}
	return interesting
}

func constant(scores []int64) bool { return len(slices.Compact(slices.Clone(scores))) <= 1 }

// preempt returns upstream's choice, described, or for how many Nodes each reason holds why there is none.
func (u *upstream) preempt(t *testing.T, s *scene, fw framework.Framework, state fwk.CycleState, nodes []fwk.NodeInfo) (string, map[string]int) {
	reasons := map[string]int{}
	if len(nodes) == 0 {
		return "", reasons
	}
	plugin, err := defaultpreemption.New(t.Context(), runtime.Object(&config.DefaultPreemptionArgs{MinCandidateNodesPercentage: 10, MinCandidateNodesAbsolute: 100}), fw, u.features)
	if err != nil {
		t.Fatal(err)
	}
	candidates, statuses, err := plugin.Evaluator.DryRunPreemption(t.Context(), state, s.pod.Pod, nodes, s.budgets, 0, int32(len(nodes)))
	if err != nil {
		t.Fatal(err)
	}
	if len(candidates) == 0 {
		statuses.ForEachExplicitNode(func(_ string, status *fwk.Status) {
			for _, reason := range status.Reasons() {
				reasons[reason]++
			}
		})
		return "", reasons
	}
	best := plugin.Evaluator.SelectCandidate(t.Context(), candidates)
	var victims []*cluster.Pod
	for _, p := range best.Victims().Pods {
		victims = append(victims, cluster.NewPod(p))
	}
	return describe(best.Name(), int(best.Victims().NumPDBViolations), victims), nil
}

func describe(node string, violations int, victims []*cluster.Pod) string {
	text := fmt.Sprintf("on %s against %d budgets:", node, violations)
	for _, p := range victims {
		text += " " + p.Name
	}
	return text
}
