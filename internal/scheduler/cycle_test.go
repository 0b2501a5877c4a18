package scheduler

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"peapod.dev/peapod/internal/scheduler/cluster"
	"peapod.dev/peapod/internal/scheduler/filter"
)

// TestPreparedRulesKeepUp lets Pods come, change and go after the rules were prepared for one: what they say then must be what they would
// say had they been prepared anew.
func TestPreparedRulesKeepUp(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 500 {
		state := cluster.NewState()
		kept := newCycle(state)
		for name, team := range map[string]string{"x": "1", "y": "2"} {
			state.SetNamespace(name, map[string]string{"team": team})
		}
		for i := range 4 {
			state.SetNode(randomNode(random, fmt.Sprintf("n%d", i)))
		}
		churn := func() {
			for range 6 {
				p := randomPod(random)
				p.UID = types.UID(fmt.Sprint(random.IntN(8)))
				if random.IntN(4) == 0 {
					p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
				}
				if p.Spec.NodeName = fmt.Sprintf("n%d", random.IntN(4)); random.IntN(3) == 0 {
					state.Remove(p.UID)
				} else {
					state.Place(cluster.NewPod(p), p.Spec.NodeName)
				}
			}
		}
		churn()
		pod := randomPod(random)
		pod.UID = "new"
		first := kept.prepare(cluster.NewPod(pod))
		churn()
		if random.IntN(4) == 0 { // a Node changes between: all must be prepared anew
			state.SetNode(randomNode(random, "n1"))
			churn()
		}
		twin := pod.DeepCopy()
		twin.UID = "twin"
		kept.prepare(cluster.NewPod(randomPod(random)))
		now, fresh := kept.prepare(cluster.NewPod(twin)), newCycle(state).prepare(cluster.NewPod(pod))
		for _, node := range state.Nodes() {
			if got, want := texts(now.checks.Explain(node)), texts(fresh.checks.Explain(node)); !slices.Equal(got, want) {
				t.Fatalf("round %d, %s: kept %q, anew %q (same checks: %t)\n%+v", round, node.Name, got, want, now == first, pod.Spec)
			}
		}
		if got, want := now.preferences.Score(state.Nodes()), fresh.preferences.Score(state.Nodes()); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: kept %d, anew %d\n%+v", round, got, want, pod.Spec)
		}
	}
}

func texts(reasons []filter.Reason) (texts []string) {
	for _, r := range reasons {
		texts = append(texts, r.Text)
	}
	slices.Sort(texts)
	return texts
}

func TestAlikePodsArePreparedOnce(t *testing.T) {
	state := cluster.NewState()
	state.SetNode(newNode("n", "4"))
	c := newCycle(state)
	first := c.prepare(cluster.NewPod(newPod("a", "1")))
	labeled := newPod("c", "1")
	labeled.Labels = map[string]string{"a": "b"}
	if c.prepare(cluster.NewPod(labeled.DeepCopy())) == first {
		t.Error("the second has other labels")
	}
	if third := c.prepare(cluster.NewPod(newPod("b", "1"))); third != first || third.checks.Pod.Name != "b" {
		t.Error("the third was prepared anew")
	}
	for i := range 2 * maxPrepared {
		labeled.Labels["a"] = fmt.Sprint(i)
		c.prepare(cluster.NewPod(labeled.DeepCopy()))
	}
	if len(c.kept) != maxPrepared || c.prepare(cluster.NewPod(newPod("d", "1"))) == first {
		t.Errorf("%d kinds are kept", len(c.kept))
	}
}

func TestManyNodesAreSampled(t *testing.T) {
	for all, want := range map[int]int{1: 1, 99: 99, 100: 100, 150: 100, 1000: 420, 5000: 500, 10000: 500} {
		if got := wantedNodes(all); got != want {
			t.Errorf("of %d Nodes %d are wanted, want %d", all, got, want)
		}
	}
	state := cluster.NewState()
	for i := range 1000 {
		state.SetNode(newNode(fmt.Sprint(i), "1"))
	}
	c := newCycle(state)
	for i := range 1000 {
		p := cluster.NewPod(newPod(fmt.Sprint(i), "1"))
		node, err := c.place(p)
		if err != nil {
			t.Fatalf("Pod %d: %v", i, err)
		}
		state.Place(p, node.Name)
	}
	if _, err := c.place(cluster.NewPod(newPod("more", "1"))); err == nil {
		t.Error("a full cluster took another Pod")
	}
}

func TestQueueOrder(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	add := func(name string, priority int32) {
		p := newPod(name, "")
		p.Spec.Priority = &priority
		q.set(cluster.NewPod(p), now)
		now = now.Add(time.Millisecond)
	}
	take := func(want string) *item {
		t.Helper()
		it := q.pop(now)
		if it == nil || it.pod.Name != want {
			t.Fatalf("got %+v, want %s", it, want)
		}
		return it
	}
	add("low", 1)
	add("high", 10)
	add("low2", 1)
	high, low := take("high"), take("low")
	q.park(high, now)
	q.park(low, now)
	q.activate(high, now)
	take("low2") // the back-off of high lasts a second
	take("high") // but nobody has to wait when there is nothing else
	for i, want := range []time.Duration{2, 4, 8, 10, 10} {
		q.park(high, now)
		if got := high.due.Sub(now); got != want*time.Second {
			t.Errorf("attempt %d: back-off %s, want %d s", i+2, got, want)
		}
		q.activate(high, high.due)
		if high.stage != active {
			t.Errorf("the back-off is over")
		}
		now = high.due
		take("high")
	}
	q.retry(high, now)
	q.activate(high, now)
	if q.pop(now) != nil {
		t.Error("the back-off after an error is not cut short")
	}
	if due, ok := q.due(); !ok || due != now.Add(firstBackoff) {
		t.Errorf("due %v", due)
	}
}
