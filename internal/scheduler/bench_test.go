package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

const (
	benchNodes = 5000
	benchPods  = 10000
)

// BenchmarkCycle decides about 10,000 Pods on 5,000 Nodes, from the object as the watch delivers it to the Node that it counts on: queue,
// filters, scores, and for the last ones preemption. `make bench-scheduler` shows it beside the same through an API server.
func BenchmarkCycle(b *testing.B) {
	app := func(i, apps int) map[string]string { return map[string]string{"app": fmt.Sprint("app-", i%apps)} }
	selector := func(p *v1.Pod) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: p.Labels} }
	for _, c := range []struct {
		name string
		with func(i int, p *v1.Pod)
	}{
		{"plain", func(int, *v1.Pod) {}},
		{"10 apps", func(i int, p *v1.Pod) { p.Labels = app(i, 10) }},
		{"node selector", func(i int, p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": fmt.Sprint("z", i%3)} }},
		{"spread over zones", func(i int, p *v1.Pod) {
			p.Labels = app(i, 10)
			p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: selector(p)},
				{MaxSkew: 1, TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.ScheduleAnyway, LabelSelector: selector(p)}}
		}},
		{"one a node", func(i int, p *v1.Pod) {
			p.Labels = app(i, 10)
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{TopologyKey: v1.LabelHostname, LabelSelector: selector(p)}}}}
		}},
		{"near their like", func(i int, p *v1.Pod) {
			p.Labels = app(i, 10)
			p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{
				{Weight: 10, PodAffinityTerm: v1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: selector(p)}}}}}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			pods := make([]*v1.Pod, benchPods)
			for i := range pods {
				pods[i] = newPod(fmt.Sprint("p", i), "100m")
				c.with(i, pods[i])
			}
			var spent time.Duration
			for b.Loop() {
				b.StopTimer()
				s := benchState(0)
				begin := processorTime(b)
				b.StartTimer()
				if placed := decideAll(s, pods); placed != benchPods {
					b.Fatalf("%d Pods were placed", placed)
				}
				spent += processorTime(b) - begin
			}
			report(b, benchPods, spent)
		})
	}
	b.Run("preempting", func(b *testing.B) {
		const n = 1000
		var spent time.Duration
		for b.Loop() {
			b.StopTimer()
			s := benchState(4) // full
			c := newCycle(s)
			begin := processorTime(b)
			b.StartTimer()
			for i := range n {
				p := cluster.NewPod(important(fmt.Sprint("high", i), "1", 10))
				_, err := c.place(p)
				refused, ok := err.(*fitError)
				if !ok {
					b.Fatal(err)
				}
				plan, _ := c.preempt(p, refused, func() []*policyv1.PodDisruptionBudget { return nil })
				s.Nominate(p, plan.Node.Name)
			}
			spent += processorTime(b) - begin
		}
		report(b, n, spent)
	})
}

// report gives the pace by the clock and, for a machine that has other work too, by the time that processors spent, garbage collection
// included.
func report(b *testing.B, pods int, spent time.Duration) {
	n := float64(b.N * pods)
	b.ReportMetric(n/b.Elapsed().Seconds(), "Pods/s")
	b.ReportMetric(n/spent.Seconds(), "Pods/cpu-s")
	b.ReportMetric(0, "ns/op")
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// benchState has Nodes of 4 cores in 3 zones, with a number of Pods of a core each.
func benchState(pods int) *cluster.State {
	s := cluster.NewState()
	for i := range benchNodes {
		n := newNode(fmt.Sprint("n", i), "4")
		n.Labels = map[string]string{v1.LabelHostname: n.Name, "zone": fmt.Sprint("z", i%3), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
		s.SetNode(n)
		for j := range pods {
			s.Place(cluster.NewPod(important(fmt.Sprint(n.Name, "-", j), "1", 1)), n.Name)
		}
	}
	return s
}

func decideAll(s *cluster.State, pods []*v1.Pod) (placed int) {
	q, c := newQueue(), newCycle(s)
	now := time.Now()
	for _, p := range pods {
		q.set(cluster.NewPod(p), now)
	}
	for it := q.pop(now); it != nil; it = q.pop(now) {
		node, err := c.place(it.pod)
		if err != nil {
			q.park(it, now)
			continue
		}
		s.Place(it.pod, node.Name)
		q.bind(it)
		placed++
	}
	return placed
}
