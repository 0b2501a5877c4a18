package worker

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/hook"
)

var (
	firstSeed = flag.Uint64("seed", 0, "the first seed of TestLives")
	lives     = flag.Uint64("lives", 300, "how many seeds TestLives tries")
)

// life is one Pod's, with the Worker that drives it at the moment.
type life struct {
	*world
	random *rand.Rand
	worker *Worker
	stop   func()
	dir    string
}

// TestLives lives random Pods (init containers, sidecars, hooks, probes, restart policies, finalizers) through exits, probe
// results, lost sandboxes and containers, crashes of the agent, reboots, outages of the API and deletion, over a model of
// the engine and the API server that checks the rules of a Pod's life (see (*world).breaks). In the end a Pod that is left
// alone is ready, or has ended; and one that is deleted is gone, with all that was of it.
//
//	go test ./internal/agent/worker -run TestLives -seed 17 -lives 1
func TestLives(t *testing.T) {
	seen := edges{}
	for seed := *firstSeed; seed < *firstSeed+*lives; seed++ {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			l := newLife(seed, dir, seen)
			l.live()
			l.stop()
			if len(l.broken) > 0 {
				t.Errorf("seed %d: %s\n%s\n%s", seed, strings.Join(l.broken, "; "), describePod(l.random, seed), strings.Join(l.log, "\n"))
			}
		})
		if t.Failed() {
			return
		}
	}
	if *firstSeed == 0 && *lives >= 180 {
		seen.compare(t, "../../../docs/lifecycle.md")
	}
}

func newLife(seed uint64, dir string, seen edges) *life {
	l := &life{random: rand.New(rand.NewPCG(seed, 1)), dir: dir}
	l.world = &world{fakes: &fakes{}, seed: seed, begun: time.Now(), edges: seen, pod: randomPod(rand.New(rand.NewPCG(seed, 2))), hooks: map[string]bool{}, sick: map[string]bool{}}
	l.begin()
	return l
}

// begin is a new agent, which knows what the API has.
func (l *life) begin() {
	l.worker = New(Config{
		Engine: l.world, Volumes: l.world, Specs: l.world, Hooks: hook.New(hook.Config{Log: slog.New(slog.DiscardHandler)}), Probes: l.world,
		Client: client{w: l.world}, Events: &record.FakeRecorder{},
		HostIPs: func() []string { return []string{"192.0.2.1"} },
		Credentials: func(context.Context, *v1.Pod, string) ([]*runtimeapi.AuthConfig, []string, error) {
			return nil, nil, nil
		},
		PodDir: func(types.UID) string { return l.dir }, Log: slog.New(slog.DiscardHandler),
	}, l.world.object())
	worker := l.worker
	l.change(func() {
		if l.pod == nil {
			worker.Delete()
		}
	})
	l.change(func() { l.changed = func() { l.deliver(worker) } })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); worker.Run(ctx) }()
	l.stop = func() { cancel(); <-done; synctest.Wait() }
}

// object is the API's, or what is left of it in the Worker's mind.
func (w *world) object() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod == nil {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid"}}
	}
	return w.pod
}

// deliver is the watch: it tells the Worker what the API has.
func (l *life) deliver(w *Worker) {
	l.mu.Lock()
	pod := l.pod
	l.mu.Unlock()
	if pod == nil {
		w.Delete()
	} else {
		w.Update(pod)
	}
}

func (l *life) change(edit func()) {
	l.mu.Lock()
	edit()
	l.mu.Unlock()
}

// disturb changes the world and lets the Worker notice.
func (l *life) disturb(edit func()) {
	l.change(edit)
	l.deliver(l.worker)
	synctest.Wait()
}

// crash ends the agent, changes the world behind its back, and begins another.
func (l *life) crash(what string, edit func()) {
	l.stop()
	l.change(func() { l.note("%s", what); edit() })
	l.begin()
	synctest.Wait()
}

func (l *life) live() {
	synctest.Wait()
	for range 25 {
		l.upset()
		time.Sleep([]time.Duration{0, time.Millisecond, 30 * time.Millisecond, time.Second, 11 * time.Second, 70 * time.Second}[l.random.IntN(6)])
		synctest.Wait()
	}
	l.disturb(func() { l.note("left alone"); clear(l.sick); l.outage = false })
	time.Sleep(15 * time.Minute) // the longest back-off, for each of its containers
	synctest.Wait()
	l.settled()
	l.delete(10)
	l.disturb(func() {
		if l.pod != nil {
			l.store(func(p *v1.Pod) { p.Finalizers = nil })
			l.collect()
		}
	})
	time.Sleep(time.Minute)
	synctest.Wait()
	l.change(func() {
		if l.pod != nil {
			l.breaks("a deleted pod is there after its time: %s", l.pod.Status.Phase)
		}
		if l.volumes || len(l.alive()) > 0 {
			l.breaks("of a deleted pod is left: volumes %t, %v", l.volumes, l.alive())
		}
	})
	l.disturb(func() {})
	time.Sleep(time.Minute)
	synctest.Wait()
	l.change(func() {
		if len(l.sandboxes)+len(l.containers) > 0 {
			l.breaks("of a pod that is gone the engine has %v, %v", l.sandboxes, l.containers)
		}
	})
}

// settled checks that a Pod that was left alone is ready, has ended, or waits for what will not come.
func (l *life) settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pod == nil || l.pod.DeletionTimestamp != nil || podutil.IsPodPhaseTerminal(l.pod.Status.Phase) {
		return
	}
	status := l.worker.Pod().Status
	if l.pod.Status.Phase != status.Phase {
		l.breaks("the API was told %s, not %s", l.pod.Status.Phase, status.Phase)
	}
	runs := 0
	for _, name := range []string{"a", "b"} {
		if c := l.latest(name); c != nil && c.running() {
			runs++
		}
	}
	// Init containers do not end by themselves here, and a hook that always fails keeps its container from running.
	if init := l.latest("i"); runs == 0 && (init == nil || !init.running()) && l.seed%7 != 0 {
		l.breaks("a pod that was left alone is %s, and nothing of it runs", status.Phase)
	}
}

func (l *life) delete(grace int64) {
	l.disturb(func() {
		if l.pod == nil {
			return
		}
		l.note("delete grace=%d", grace)
		at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
		if old := l.pod.DeletionTimestamp; old == nil || at.Before(old) {
			l.store(func(p *v1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace })
			l.collect()
		}
		if l.deletedAt.IsZero() {
			l.deletedAt = time.Now()
		}
	})
}

// upset does something that may happen at any time.
func (l *life) upset() {
	r := l.random
	name := []string{"i", "s", "a", "b"}[r.IntN(4)]
	var c *container
	l.change(func() { c = l.latest(name) })
	switch n := r.IntN(20); {
	case n < 7:
		l.disturb(func() { l.exit(c, int32(r.IntN(2))) })
	case n < 11 && c != nil:
		sick := c.Id + " " + []string{"liveness", "unready", "starting"}[r.IntN(3)]
		l.disturb(func() {
			l.sick[sick] = !l.sick[sick]
			l.hooks[sick] = true
			l.note("%s: %t", sick, l.sick[sick])
		})
	case n < 14:
		l.crash("the agent crashes", func() {})
	case n == 14:
		l.crash("the machine reboots", func() {
			l.volumes = false
			l.lose()
		})
	case n == 15:
		l.disturb(func() { l.note("the sandbox is lost"); l.lose() })
	case n == 16:
		l.disturb(func() {
			if c != nil && !c.running() {
				l.note("%s is forgotten", c.Id)
				for i := range l.containers {
					if l.containers[i] == c {
						l.containers = append(l.containers[:i:i], l.containers[i+1:]...)
						break
					}
				}
			}
		})
	case n == 17:
		l.disturb(func() { l.outage = !l.outage; l.note("outage of the API: %t", l.outage) })
	case n == 18 && r.IntN(3) == 0:
		l.delete(int64(r.IntN(20)))
	}
}

// lose ends every sandbox, with all that runs in it; the caller holds mu.
func (l *life) lose() {
	for _, s := range l.sandboxes {
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	for _, c := range l.containers {
		l.exit(c, 255)
	}
}

func randomPod(r *rand.Rand) *v1.Pod {
	handler := func(name string) *v1.LifecycleHandler {
		if r.IntN(2) == 0 {
			return nil
		}
		return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{name}}}
	}
	make := func(name string) v1.Container {
		c := v1.Container{Name: name, Image: "docker.io/library/x:1", ImagePullPolicy: v1.PullIfNotPresent}
		if post, pre := handler("postStart"), handler("preStop"); name != "i" && (post != nil || pre != nil) {
			c.Lifecycle = &v1.Lifecycle{PostStart: post, PreStop: pre}
		}
		if r.IntN(2) == 0 && name != "i" {
			c.StartupProbe = &v1.Probe{}
		}
		return c
	}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid", ResourceVersion: "1", Generation: 1},
		Spec: v1.PodSpec{
			RestartPolicy:                 []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}[r.IntN(3)],
			TerminationGracePeriodSeconds: new(int64(r.IntN(20))),
		},
		Status: v1.PodStatus{Phase: v1.PodPending},
	}
	if r.IntN(2) == 0 {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, make("i"))
	}
	if r.IntN(2) == 0 {
		s := make("s")
		s.RestartPolicy = new(v1.ContainerRestartPolicyAlways)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, s)
	}
	pod.Spec.Containers = []v1.Container{make("a")}
	if r.IntN(2) == 0 {
		pod.Spec.Containers = append(pod.Spec.Containers, make("b"))
	}
	if r.IntN(8) == 0 {
		pod.Spec.ActiveDeadlineSeconds = new(int64(1 + r.IntN(100)))
	}
	if r.IntN(4) == 0 {
		pod.Finalizers = []string{"example.com/keep"}
	}
	return pod
}

func describePod(_ *rand.Rand, seed uint64) string {
	pod := randomPod(rand.New(rand.NewPCG(seed, 2)))
	out := fmt.Sprintf("restartPolicy %s", pod.Spec.RestartPolicy)
	for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
		out += " " + c.Name
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
			out += "+postStart"
		}
		if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
			out += "+preStop"
		}
		if c.StartupProbe != nil {
			out += "+startup"
		}
	}
	return out
}
