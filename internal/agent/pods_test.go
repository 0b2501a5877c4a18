package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"peapod.dev/peapod/internal/agent/worker"
)

// absent is what Workers that never run ask.
type absent struct {
	worker.Volumes
	worker.Specs
}

func (absent) Present(types.UID) bool       { return false }
func (absent) Limits(*v1.Pod) worker.Limits { return worker.Limits{} }

// crowd is an Agent whose node has 1000m, with Workers that do not run.
type crowd struct {
	*Agent
	t      *testing.T
	events *record.FakeRecorder
	pods   map[string]*v1.Pod
}

func newCrowd(t *testing.T) *crowd {
	a := &Agent{}
	a.workers = workers{agent: a, byUID: map[types.UID]*worker.Worker{}}
	a.nodeCache.Store(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourcePods: resource.MustParse("10"), v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"),
	}}})
	return &crowd{Agent: a, t: t, events: record.NewFakeRecorder(100), pods: map[string]*v1.Pod{}}
}

func (c *crowd) add(name string, milli int64, edit func(*v1.Pod)) {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app"}}},
		Status:     v1.PodStatus{Phase: v1.PodRunning},
	}
	if edit != nil {
		edit(pod)
	}
	c.pods[name] = cpu(pod, milli)
	c.workers.byUID[pod.UID] = worker.New(worker.Config{Volumes: absent{}, Specs: absent{}, Events: c.events}, c.pods[name])
}

// cpu is the Pod with another request, as a resize makes it.
func cpu(pod *v1.Pod, milli int64) *v1.Pod {
	pod = pod.DeepCopy()
	pod.Generation++
	pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(milli, resource.DecimalSI)}
	return pod
}

func (c *crowd) ask(name string, milli int64) {
	old := c.pods[name]
	c.pods[name] = cpu(old, milli)
	c.workers.update(old, c.pods[name])
}

// want compares what the Pods weigh, in thousandths of a CPU.
func (c *crowd) want(want string) {
	c.t.Helper()
	var got []string
	for name := range c.pods {
		if w := c.workers.get(types.UID(name)); w != nil && w.Weight() != nil {
			got = append(got, fmt.Sprintf("%s=%d", name, w.Weight().Spec.Containers[0].Resources.Requests.Cpu().MilliValue()))
		}
	}
	slices.Sort(got)
	if all := strings.Join(got, " "); all != want {
		c.t.Errorf("the pods weigh %s, want %s", all, want)
	}
}

func (c *crowd) wantEvents(want ...string) {
	c.t.Helper()
	for _, w := range want {
		select {
		case e := <-c.events.Events:
			if !strings.HasPrefix(e, w) {
				c.t.Errorf("event %q, want %q", e, w)
			}
		default:
			c.t.Errorf("no event %q", w)
		}
	}
	select {
	case e := <-c.events.Events:
		c.t.Errorf("event %q", e)
	default:
	}
}

func TestResizeWaitsForRoom(t *testing.T) {
	c := newCrowd(t)
	c.add("a", 300, nil)
	c.add("b", 300, nil)
	c.ask("a", 600)
	c.want("a=600 b=300")
	c.wantEvents(`Normal ResizeStarted Pod resize started: {"containers":[{"name":"app","resources":{"requests":{"cpu":"600m"}}}],"generation":3}`)
	c.ask("b", 500)
	c.want("a=600 b=300")
	c.wantEvents(`Warning ResizeDeferred Pod resize Deferred: {"containers":[{"name":"app","resources":{"requests":{"cpu":"500m"}}}],"generation":3,` +
		`"error":"Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"}`)
	c.resize() // nothing has changed, and nothing is said again
	c.wantEvents()
	c.ask("a", 400) // makes room for b
	c.want("a=400 b=500")
	c.wantEvents("Normal ResizeStarted", "Normal ResizeStarted")
}

func TestRevertedResizeWaitsNoLonger(t *testing.T) {
	c := newCrowd(t)
	c.add("a", 300, nil)
	c.ask("a", 2000)
	if r, ok := c.workers.get("a").Resizing(); !ok || r.Pending == nil || r.Pending.Reason != v1.PodReasonDeferred {
		t.Errorf("a wish beyond the node is %+v, %v", r.Pending, ok)
	}
	c.ask("a", 300)
	if r, ok := c.workers.get("a").Resizing(); ok || r.Pending != nil {
		t.Errorf("after it is taken back it is %+v, %v", r.Pending, ok)
	}
}

// The order of what waits: by priority, then by class of service, then by time; what shrinks comes before all.
func TestDeferredResizesAreGrantedInOrder(t *testing.T) {
	c := newCrowd(t)
	guaranteed := func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("700m"), v1.ResourceMemory: resource.MustParse("1Mi")}
	}
	c.add("big", 700, nil)
	c.add("first", 50, nil)
	c.add("sure", 50, nil)
	c.add("urgent", 50, func(p *v1.Pod) { p.Spec.Priority = new(int32(1000)) })
	for _, name := range []string{"first", "sure", "urgent"} {
		c.ask(name, 700)
	}
	old := c.pods["sure"]
	c.pods["sure"] = old.DeepCopy()
	guaranteed(c.pods["sure"])
	c.pods["sure"].Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = resource.MustParse("1Mi")
	c.workers.update(old, c.pods["sure"])
	c.want("big=700 first=50 sure=50 urgent=50")
	c.workers.delete(c.pods["big"])
	c.want("first=50 sure=50 urgent=700")
	c.workers.delete(c.pods["urgent"])
	c.want("first=50 sure=700")
	c.workers.delete(c.pods["sure"])
	c.want("first=700")
}

// The scheduler gives away the place of a Pod whose object is gone, at once when it has no grace period.
func TestAPodThatIsGoneMakesRoom(t *testing.T) {
	c := newCrowd(t)
	c.add("a", 700, nil)
	next := cpu(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "b", UID: "b"}, Spec: v1.PodSpec{Containers: []v1.Container{{}}}}, 700)
	if refusal := c.refuse(next); refusal == nil || refusal.Reason != "OutOfcpu" {
		t.Errorf("a second pod of 700m is refused with %+v", refusal)
	}
	c.workers.delete(c.pods["a"])
	if refusal := c.refuse(next); refusal != nil {
		t.Errorf("after the first is gone it is refused with %+v", refusal)
	}
}

// An agent that starts takes what was granted from the status, not from what the spec asks for meanwhile.
func TestGrantsOutliveTheAgent(t *testing.T) {
	c := newCrowd(t)
	c.add("a", 1500, func(p *v1.Pod) {
		now := metav1.Now()
		p.Status.StartTime = &now
		p.Status.ContainerStatuses = []v1.ContainerStatus{{
			Name: "app", Resources: &v1.ResourceRequirements{}, AllocatedResources: v1.ResourceList{v1.ResourceCPU: resource.MustParse("300m")},
		}}
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Reason: v1.PodReasonDeferred, ObservedGeneration: 2,
			Message: "Node didn't have enough resource: cpu, requested: 1500, used: 0, capacity: 1000"}}
	})
	c.resize()
	c.want("a=300")
	c.wantEvents() // it was said before
}
