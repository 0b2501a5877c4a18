package probe

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// key names a probe within its Pod.
type key struct {
	container string
	kind      Kind
}

// podProbes are the probes of one Pod.
type podProbes struct {
	targets     map[key]*target
	terminating bool
}

// Manager runs probes. Its methods may be called concurrently; nothing is probed before Run.
type Manager struct {
	cfg  Config
	log  *slog.Logger
	http httpprobe.Prober
	exec turns

	wake chan struct{} // the queue's head has changed

	mu    sync.Mutex
	pods  map[types.UID]*podProbes
	queue queue
}

// New returns a Manager without probes.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Manager{
		cfg: cfg, log: cfg.Log, http: httpprobe.New(false), exec: newTurns(cfg.MaxExec),
		wake: make(chan struct{}, 1), pods: map[types.UID]*podProbes{},
	}
}

// Run starts attempts as they become due, until ctx ends; then it cancels those in flight, waits for
// them and returns.
func (m *Manager) Run(ctx context.Context) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.wake:
		}
		m.mu.Lock()
		for len(m.queue) > 0 && !m.queue[0].due.After(time.Now()) {
			t := heap.Pop(&m.queue).(*target)
			attemptCtx, cancel := context.WithCancel(ctx)
			t.cancel = cancel
			// The fields that an attempt reads are copied here, under the lock.
			a := attempt{kind: t.kind, pod: t.pod, container: t.container, spec: t.spec, id: t.id, podIP: t.podIP, slow: t.slow}
			attempts.Go(func() {
				defer cancel()
				m.finish(t, m.run(attemptCtx, a))
			})
		}
		if len(m.queue) > 0 {
			timer.Reset(time.Until(m.queue[0].due))
		}
		m.mu.Unlock()
	}
}

// Set says which containers of pod run now. It is idempotent: probes of a container ID that is already
// known go on undisturbed, those of containers not named end. Once the Pod is being deleted, liveness
// and startup probes count as successful and are not run any more; readiness probes go on.
func (m *Manager) Set(pod *v1.Pod, running []Running) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pp := m.pods[pod.UID]
	if pp == nil {
		pp = &podProbes{targets: map[key]*target{}}
		m.pods[pod.UID] = pp
	}
	wanted := map[key]bool{}
	for _, c := range probed(pod) {
		for i := range running {
			if running[i].Name != c.Name {
				continue
			}
			for _, kind := range []Kind{Startup, Liveness, Readiness} {
				if spec := specOf(c, kind); spec != nil {
					wanted[key{c.Name, kind}] = true
					m.ensure(pp, pod, c, spec, kind, &running[i])
				}
			}
		}
	}
	for k, t := range pp.targets {
		if !wanted[k] {
			m.drop(t)
			delete(pp.targets, k)
		}
	}
	if pod.DeletionTimestamp != nil || pp.terminating {
		terminate(m, pp)
	}
	m.signal()
}

// ensure makes one probe exist for the container that runs; callers hold mu.
func (m *Manager) ensure(pp *podProbes, pod *v1.Pod, c *v1.Container, spec *v1.Probe, kind Kind, running *Running) {
	k := key{c.Name, kind}
	if t := pp.targets[k]; t != nil {
		if t.id == running.ID {
			t.pod, t.container, t.spec, t.podIP = pod, c, spec, running.PodIP
			return
		}
		m.drop(t)
	}
	t := &target{pod: pod, container: c, spec: spec, kind: kind, id: running.ID, podIP: running.PodIP, index: -1,
		due: running.StartedAt.Add(time.Duration(spec.InitialDelaySeconds) * time.Second)}
	switch {
	case kind == Startup && running.WasStarted:
		t.outcome, t.onHold = Success, true
	case kind == Liveness, kind == Readiness && running.WasReady:
		t.outcome = Success
	case kind == Readiness:
		t.outcome = Failure
	}
	if now := time.Now(); t.due.Before(now) {
		if running.WasStarted && t.outcome == Success {
			// A new daemon goes on as the old one did, instead of running everything in its first instant.
			behind := now.Sub(t.due) + t.period() - 1
			t.due = t.due.Add(behind.Truncate(t.period()))
		} else {
			t.due = now
		}
	}
	pp.targets[k] = t
	m.enqueue(pp, t)
}

// enqueue plans the next attempt at t.due unless the probe is decided or has to wait for the startup
// probe; callers hold mu.
func (m *Manager) enqueue(pp *podProbes, t *target) {
	startup := pp.targets[key{t.container.Name, Startup}]
	gated := t.kind != Startup && startup != nil && startup.outcome != Success
	if t.onHold || gated || t.index >= 0 || t.cancel != nil {
		return
	}
	heap.Push(&m.queue, t)
}

// drop stops a target that is no longer wanted; callers hold mu.
func (m *Manager) drop(t *target) {
	m.queue.remove(t)
	if t.cancel != nil {
		t.cancel()
	}
}

// Terminate says that the Pod is ending for a reason other than its deletion (a deadline, eviction):
// liveness and startup probes count as successful from now on.
func (m *Manager) Terminate(podUID types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pp := m.pods[podUID]; pp != nil {
		terminate(m, pp)
		m.signal()
	}
}

func terminate(m *Manager, pp *podProbes) {
	pp.terminating = true
	for _, t := range pp.targets {
		if t.kind != Readiness {
			m.drop(t)
			t.outcome, t.onHold = Success, true
		}
	}
	// Readiness that was waiting for startup may now run.
	for _, t := range pp.targets {
		m.enqueue(pp, t)
	}
}

// Remove forgets a Pod with all its probes and results. Removing an unknown one does nothing.
func (m *Manager) Remove(podUID types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pp := m.pods[podUID]; pp != nil {
		for _, t := range pp.targets {
			m.drop(t)
		}
		delete(m.pods, podUID)
	}
}

// Get returns the outcome of a probe of one container of a Pod. ok is false when there is no such
// probe: none is defined, or the Manager was not told that this container runs.
func (m *Manager) Get(podUID types.UID, containerID string, kind Kind) (outcome Outcome, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pp := m.pods[podUID]; pp != nil {
		for _, t := range pp.targets {
			if t.id == containerID && t.kind == kind {
				return t.outcome, true
			}
		}
	}
	return Unknown, false
}

// finish books an attempt and plans the next.
func (m *Manager) finish(t *target, v verdict) {
	m.mu.Lock()
	t.cancel, t.slow = nil, v.slow
	defer m.signal()
	pp := m.pods[t.pod.UID]
	if pp == nil || pp.targets[key{t.container.Name, t.kind}] != t || t.onHold {
		m.mu.Unlock() // the container is gone, or its end has begun
		return
	}
	changed := false
	if !v.discard {
		changed = t.note(v.outcome)
	}
	t.due = t.nextDue(time.Now())
	m.enqueue(pp, t)
	if changed && t.kind == Startup && t.outcome == Success {
		for _, kind := range []Kind{Liveness, Readiness} {
			if other := pp.targets[key{t.container.Name, kind}]; other != nil {
				if now := time.Now(); other.due.Before(now) {
					other.due = now
				}
				m.enqueue(pp, other)
			}
		}
	}
	result := Result{PodUID: t.pod.UID, Container: t.container.Name, ContainerID: t.id, Kind: t.kind, Outcome: t.outcome, Output: v.output}
	m.mu.Unlock()
	if changed && m.cfg.OnResult != nil {
		m.cfg.OnResult(result)
	}
}

// signal lets Run look again.
func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
