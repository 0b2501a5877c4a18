// Package worker owns Pods: one Worker, and so one goroutine, for each Pod UID. It observes, asks the
// planner, carries the plan out, and reports the status, until nothing of the Pod is left.
//
//	        Update, Delete, Poke (mailbox of size one)
//	                 │
//	observe ──► plan.Plan ──► begin / cancel operations ──► status.Compute ──► report
//	   ▲                                │
//	   └────────── every end ◄──────────┘
//
// Invariants: only the Worker acts on its Pod; an operation runs at most once at a time by its key;
// whatever the engine can tell is asked, not remembered, so a crash is only another observation.
package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/hook"
	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/agent/status"
)

// Config is what all Workers of an agent share. Every field but MaxRestartPeriod and Log is required.
type Config struct {
	Engine  Engine
	Volumes Volumes
	Specs   Specs
	Hooks   Hooks
	Probes  Probes
	Client  kubernetes.Interface
	Events  record.EventRecorder
	// HostIPs are the node's addresses, the primary first.
	HostIPs func() []string
	// Credentials returns what to try when pulling the image for the Pod, best first; none means anonymous. missing names
	// the pull secrets that cannot be had.
	Credentials func(ctx context.Context, pod *v1.Pod, image string) (found []*runtimeapi.AuthConfig, missing []string, err error)
	// MaxRestartPeriod is the longest restart back-off; zero means plan.BackoffMax.
	MaxRestartPeriod time.Duration
	// PodDir is the folder of the Pod's own state.
	PodDir func(types.UID) string
	Log    *slog.Logger
}

// Engine is CRI v1 as a Worker needs it.
type Engine interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// Volumes prepares and removes a Pod's volumes; all methods are idempotent.
type Volumes interface {
	Setup(ctx context.Context, pod *v1.Pod) error
	Update(ctx context.Context, pod *v1.Pod) error
	Teardown(ctx context.Context, uid types.UID) error
	// Present tells whether anything of the Pod's volumes is left on the machine.
	Present(uid types.UID) bool
}

// Specs turns a Pod into CRI messages. An error of Container is upstream's CreateContainerConfigError.
type Specs interface {
	Sandbox(pod *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error)
	// Handler is the runtime handler that the Pod's RuntimeClass names, empty for the default.
	Handler(ctx context.Context, pod *v1.Pod) (string, error)
	Container(ctx context.Context, pod *v1.Pod, c *v1.Container, a Attempt) (*runtimeapi.ContainerConfig, error)
	// Limits are what the resources in the Pod's spec amount to.
	Limits(pod *v1.Pod) Limits
}

// Limits are those of a Pod as a whole and of its containers by name (init and app), as the engine takes them.
type Limits struct {
	Pod        *runtimeapi.LinuxContainerResources
	Containers map[string]*runtimeapi.LinuxContainerResources
}

// Attempt is what distinguishes one attempt of a container.
type Attempt struct {
	Number int
	PodIPs []string
	Image  *runtimeapi.Image
	// TargetID is the container whose PID namespace an ephemeral container joins, empty for none.
	TargetID string
}

// Hooks runs lifecycle handlers; cause is what an event may say of a failure.
type Hooks interface {
	Run(ctx context.Context, call hook.Call) (cause string, err error)
}

// Probes runs the probes of running containers and knows their last results.
type Probes interface {
	Set(pod *v1.Pod, podIP string, running []plan.Container)
	Results(pod *v1.Pod, spec *v1.Container, c *plan.Container) plan.Probes
	Remove(uid types.UID)
}

// Worker owns one Pod. All methods are safe for concurrent use.
type Worker struct {
	cfg  Config
	uid  types.UID
	log  *slog.Logger
	mail chan struct{}

	mu        sync.Mutex
	pod       *v1.Pod
	gone      bool
	memory    memory
	resources resources
	ops       map[string]*operation
	report    reporter
	wg        sync.WaitGroup

	filling *semaphore.Weighted // of 1: held while volumes are set up, updated or torn down
}

// memory is what cannot be observed again.
type memory struct {
	images   map[string]plan.Image
	present  map[string]*runtimeapi.Image // by container name, where images has a Ref
	failures map[string]plan.Failure
	backoff  map[string]plan.Backoff
	renew    map[string]bool
	volumes  plan.Volumes
	start    time.Time
	ended    *plan.End
	held     map[string]time.Time  // by operation key: not to be tried again before
	hooks    map[string]hookRecord // what is known of the records of hooks
	// completions has who waits for the end of a completion, by the id of the container that has completed.
	completions map[string]chan struct{}
	messages    map[string]string // termination messages by container id
	lastSeen    *plan.Observed    // for readers: logs, exec, stats
	shown       *v1.Pod           // the version whose labels and annotations the volumes show, nil to write them anew
}

// New returns the Worker of pod; Run drives it.
func New(cfg Config, pod *v1.Pod) *Worker {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	w := &Worker{
		cfg: cfg, uid: pod.UID, pod: pod,
		log:  cfg.Log.With("pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID),
		mail: make(chan struct{}, 1), ops: map[string]*operation{}, filling: semaphore.NewWeighted(1),
		memory: memory{
			images: map[string]plan.Image{}, present: map[string]*runtimeapi.Image{}, failures: map[string]plan.Failure{}, backoff: map[string]plan.Backoff{},
			renew: map[string]bool{}, held: map[string]time.Time{}, hooks: map[string]hookRecord{}, completions: map[string]chan struct{}{}, messages: map[string]string{},
		},
	}
	w.report.old = pod.Status
	w.memory.start = time.Now()
	if pod.Status.StartTime != nil {
		w.memory.start = pod.Status.StartTime.Time
	}
	w.memory.volumes.TornDown = !cfg.Volumes.Present(pod.UID)
	w.resources.restore(pod)
	w.Poke()
	return w
}

// Update hands the Worker the newest version of its Pod.
func (w *Worker) Update(pod *v1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.resources.revert(pod)
	w.mu.Unlock()
	w.Poke()
}

// Delete tells the Worker that the API object is gone: everything ends and is removed.
func (w *Worker) Delete() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.Poke()
}

// End makes the Pod fail as a whole, e.g. because the node refuses or evicts it. The first End wins.
func (w *Worker) End(end plan.End) {
	w.mu.Lock()
	if w.memory.ended == nil {
		w.memory.ended = &end
	}
	w.mu.Unlock()
	w.Poke()
}

// Poke makes the Worker look again; pokes while one is pending are one.
func (w *Worker) Poke() {
	select {
	case w.mail <- struct{}{}:
	default:
	}
}

// Refresh makes the Worker rewrite the volumes whose content is the API's.
func (w *Worker) Refresh() {
	w.mu.Lock()
	w.memory.shown = nil
	w.mu.Unlock()
	w.Poke()
}

// Pod returns the newest version of the Pod, with the status that this agent knows.
func (w *Worker) Pod() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.pod.DeepCopy()
	pod.Status = *w.report.old.DeepCopy()
	return pod
}

// Weight returns the Pod as it weighs on the node: what it has been granted, with the status that this agent knows. It is
// nil when the Pod holds nothing any more because it has ended, or because its API object is gone: what is left of it then
// ends soon, and the scheduler has given its place away. The Pod is read-only.
func (w *Worker) Weight() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || podutil.IsPodPhaseTerminal(w.report.old.Phase) {
		return nil
	}
	pod := *w.resources.granted.Apply(w.pod)
	pod.Status = w.report.old
	return &pod
}

// Seen returns the last observation, nil before the first.
func (w *Worker) Seen() *plan.Observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.memory.lastSeen
}

// Run drives the Pod until nothing of it is left (then it returns true) or ctx ends: then containers are left running.
func (w *Worker) Run(ctx context.Context) (empty bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer w.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		case <-w.mail:
		}
		wake, empty := w.step(ctx)
		if empty {
			w.cfg.Probes.Remove(w.uid)
			return true
		}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
	}
}

// step is one turn: observe, plan, act, report.
func (w *Worker) step(ctx context.Context) (wake time.Time, empty bool) {
	seen, err := w.observe(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error("cannot observe the pod's containers", "error", err)
		}
		return time.Now().Add(time.Second), false
	}
	pod, now := w.Granted(), time.Now()
	d := plan.Plan(w.final(pod), seen, now)
	if d.End != nil {
		w.End(*d.End)
		if pod.Status.Phase != v1.PodFailed {
			w.event(pod, nil, v1.EventTypeNormal, d.End.Reason, "%s", d.End.Message)
		}
		seen.Ended = d.End
	}
	w.probe(pod, seen, d)
	held := w.apply(ctx, pod, d.Actions, seen.InFlight, now)
	if !d.Finished {
		w.refresh(ctx, pod)
	}
	if !seen.Gone {
		w.mu.Lock()
		old := w.report.old
		w.mu.Unlock()
		s := status.Compute(pod, status.Input{Seen: seen, Old: old, Finished: d.Finished, HostIPs: w.cfg.HostIPs()}, now)
		if at := w.publish(ctx, pod, s, d.Reclaimed, now); !at.IsZero() && (held.IsZero() || at.Before(held)) {
			held = at
		}
	}
	wake = d.Wake
	if !held.IsZero() && (wake.IsZero() || held.Before(wake)) {
		wake = held
	}
	return wake, d.Empty && len(seen.InFlight) == 0
}

// final returns the Pod with a terminal phase that this agent has found, though the API may not know it yet: it is never
// taken back, whatever is seen later.
func (w *Worker) final(pod *v1.Pod) *v1.Pod {
	w.mu.Lock()
	phase := w.report.old.Phase
	w.mu.Unlock()
	if !podutil.IsPodPhaseTerminal(phase) || podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		return pod
	}
	out := *pod
	out.Status.Phase = phase
	return &out
}

// probe tells the prober which containers run.
func (w *Worker) probe(pod *v1.Pod, seen *plan.Observed, d plan.Decision) {
	var running []plan.Container
	for _, c := range seen.Containers {
		if c.State == plan.Running && c.PostStartDone {
			running = append(running, c)
		}
	}
	ip := ""
	if s := seen.Sandbox(); s != nil && len(s.IPs) > 0 {
		ip = s.IPs[0]
	} else if hosts := w.cfg.HostIPs(); pod.Spec.HostNetwork && len(hosts) > 0 {
		ip = hosts[0]
	}
	w.cfg.Probes.Set(pod, ip, running)
}
