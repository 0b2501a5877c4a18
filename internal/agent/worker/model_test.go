package worker

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// world is a machine and an API server for one Pod, which outlive the Worker. Every call takes its time, has its effect
// before or after that, and may find its caller gone meanwhile. The world checks the rules of a Pod's life as it is used.
type world struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	*fakes
	seed  uint64
	begun time.Time

	mu         sync.Mutex
	calls      int
	changed    func()
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*container
	volumes    bool
	pod        *v1.Pod // as the API has it, nil once it is gone
	outage     bool    // the API server does not answer
	deletedAt  time.Time
	log        []string
	broken     []string // rules that were broken
	edges      edges

	hooks map[string]bool // "ID preStop": begun; "ID liveness": it has failed
	sick  map[string]bool // "ID liveness", "ID unready", "ID starting"
}

// container is one attempt.
type container struct {
	*runtimeapi.ContainerStatus
	sandbox string
}

func (c *container) name() string  { return c.Metadata.Name }
func (c *container) running() bool { return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING }

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func (w *world) breaks(format string, args ...any) {
	w.note("BROKEN: "+format, args...)
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

// act has an effect within a call that takes a while, which depends on the seed and the call alone.
func (w *world) act(ctx context.Context, call string, effect func() error) error {
	w.mu.Lock()
	w.calls++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", w.seed, call, w.calls)
	dice := h.Sum64()
	w.mu.Unlock()
	took := []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 700 * time.Millisecond}[dice%4]
	if dice/4%2 == 0 { // its effect comes first: a caller that has gone does not hear of it
		if err := w.locked(ctx, call, effect); err != nil {
			return err
		}
		return pause(ctx, took)
	}
	if err := pause(ctx, took); err != nil {
		return err
	}
	return w.locked(ctx, call, effect)
}

func (w *world) locked(ctx context.Context, call string, effect func() error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := effect()
	w.note("%s: %v", call, err)
	if w.changed != nil {
		go w.changed()
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errGone = grpcstatus.Error(codes.NotFound, "no such thing")

func (w *world) sandbox(id string) *runtimeapi.PodSandboxStatus {
	for _, s := range w.sandboxes {
		if s.Id == id {
			return s
		}
	}
	return nil
}

func (w *world) container(id string) *container {
	for _, c := range w.containers {
		if c.Id == id {
			return c
		}
	}
	return nil
}

// latest is the newest attempt of a container, nil if there is none.
func (w *world) latest(name string) *container {
	for _, c := range slices.Backward(w.containers) {
		if c.name() == name {
			return c
		}
	}
	return nil
}

// ending tells whether nothing of the Pod may start any more.
func (w *world) ending() string {
	switch {
	case w.pod == nil:
		return "gone"
	case podutil.IsPodPhaseTerminal(w.pod.Status.Phase):
		return string(w.pod.Status.Phase)
	case !w.deletedAt.IsZero() && time.Now().After(w.deletedAt):
		return "deleted"
	}
	return ""
}

func (w *world) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id := fmt.Sprintf("s%d", r.Config.Metadata.Attempt)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, w.act(ctx, "run sandbox "+id, func() error {
		if why := w.ending(); why != "" {
			w.breaks("sandbox %s of a pod that is %s", id, why)
		}
		for _, s := range w.sandboxes {
			if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
				w.breaks("sandbox %s beside %s", id, s.Id)
			}
		}
		w.sandboxes = append(w.sandboxes, &runtimeapi.PodSandboxStatus{
			Id: id, Metadata: r.Config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
			CreatedAt: time.Now().UnixNano(), Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.9"},
		})
		return nil
	})
}

func (w *world) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range w.sandboxes {
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id})
	}
	return out, nil
}

func (w *world) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sandbox(r.PodSandboxId)
	if s == nil {
		return nil, errGone
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network,
	}}, nil
}

func (w *world) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return &runtimeapi.StopPodSandboxResponse{}, w.act(ctx, "stop sandbox "+r.PodSandboxId, func() error {
		for _, c := range w.containers {
			if c.sandbox == r.PodSandboxId && c.running() {
				w.breaks("sandbox %s is stopped under container %s", r.PodSandboxId, c.Id)
			}
		}
		if s := w.sandbox(r.PodSandboxId); s != nil {
			s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		}
		return nil
	})
}

func (w *world) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, w.act(ctx, "remove sandbox "+r.PodSandboxId, func() error {
		w.sandboxes = slices.DeleteFunc(w.sandboxes, func(s *runtimeapi.PodSandboxStatus) bool { return s.Id == r.PodSandboxId })
		w.containers = slices.DeleteFunc(w.containers, func(c *container) bool { return c.sandbox == r.PodSandboxId })
		return nil
	})
}

func (w *world) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id := fmt.Sprintf("%s-%d", r.Config.Metadata.Name, r.Config.Metadata.Attempt)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, w.act(ctx, "create "+id, func() error {
		if s := w.sandbox(r.PodSandboxId); s == nil || s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			return errGone
		}
		if !w.volumes {
			w.breaks("%s is made before the volumes", id)
		}
		if old := w.latest(r.Config.Metadata.Name); old != nil && old.Metadata.Attempt >= r.Config.Metadata.Attempt {
			w.breaks("%s after %s", id, old.Id)
		}
		w.containers = append(w.containers, &container{sandbox: r.PodSandboxId, ContainerStatus: &runtimeapi.ContainerStatus{
			Id: id, Metadata: r.Config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(), Image: r.Config.Image,
		}})
		return nil
	})
}

func (w *world) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	w.mu.Lock()
	if why := w.ending(); why != "" {
		w.breaks("container %s starts in a pod that is %s", r.ContainerId, why)
	}
	w.mu.Unlock()
	return &runtimeapi.StartContainerResponse{}, w.act(ctx, "start "+r.ContainerId, func() error {
		c := w.container(r.ContainerId)
		if c == nil || c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			return errGone
		}
		w.checkStart(c)
		c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
		return nil
	})
}

// checkStart holds a start against the rules; the caller holds mu.
func (w *world) checkStart(c *container) {
	spec := plan.Spec(w.pod, c.name())
	sidecar := podutil.IsRestartableInitContainer(spec)
	for _, other := range w.containers {
		if other.name() == c.name() && other != c {
			if other.running() {
				w.breaks("%s beside %s", c.Id, other.Id)
			}
			if other.StartedAt != 0 && w.pod.Spec.RestartPolicy == v1.RestartPolicyNever && !sidecar {
				w.breaks("%s after %s, though it is never to be restarted", c.Id, other.Id)
			}
			if other.sandbox == c.sandbox && other.StartedAt != 0 && w.pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure && !sidecar &&
				other.ExitCode == 0 && !other.running() && !w.hooks[other.Id+" liveness"] { // else it was killed to be restarted
				w.breaks("%s after the success of %s", c.Id, other.Id)
			}
		}
	}
	if podutil.VisitContainers(&w.pod.Spec, podutil.Containers, func(s *v1.Container, _ podutil.ContainerType) bool { return s.Name != spec.Name }) {
		return // no app container
	}
	for i := range w.pod.Spec.InitContainers {
		init := &w.pod.Spec.InitContainers[i]
		sidecar := podutil.IsRestartableInitContainer(init)
		if slices.ContainsFunc(w.containers, func(o *container) bool {
			return o.name() == init.Name && o.sandbox == c.sandbox && o.StartedAt != 0 && (sidecar || !o.running() && o.ExitCode == 0)
		}) {
			continue
		}
		if !slices.ContainsFunc(w.containers, func(o *container) bool { // the record may have vanished; then the app had run
			return o.sandbox == c.sandbox && o.StartedAt != 0 && plan.Spec(w.pod, o.name()) != init && o != c
		}) {
			w.breaks("%s before init container %s", c.Id, init.Name)
		}
	}
}

// exit ends a container that runs; the caller holds mu.
func (w *world) exit(c *container, code int32) {
	if c != nil && c.running() {
		w.note("exit %s %d", c.Id, code)
		c.State, c.ExitCode, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	}
}

func (w *world) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	w.mu.Lock()
	c := w.container(r.ContainerId)
	if c == nil {
		w.mu.Unlock()
		return nil, errGone
	}
	w.checkStop(c)
	w.calls++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d stop %s", w.seed, c.Id)
	code, took := int32(143), time.Duration(h.Sum64()%3)*time.Second
	if limit := time.Duration(r.Timeout) * time.Second; took >= limit {
		code, took = 137, limit
	}
	if h.Sum64()%5 == 0 {
		code = 0
	}
	w.note("stop %s timeout=%d", c.Id, r.Timeout)
	w.mu.Unlock()
	if err := pause(ctx, took); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exit(c, code)
	go w.changed()
	return &runtimeapi.StopContainerResponse{}, nil
}

// checkStop holds a stop against the rules; the caller holds mu.
func (w *world) checkStop(c *container) {
	s := w.sandbox(c.sandbox)
	if w.pod == nil || !c.running() || s == nil || s.State != runtimeapi.PodSandboxState_SANDBOX_READY || s != w.sandboxes[len(w.sandboxes)-1] {
		return // what is lost has no rights
	}
	spec := plan.Spec(w.pod, c.name())
	over := w.pod.DeletionTimestamp != nil && !time.Now().Before(w.pod.DeletionTimestamp.Time)
	if s := w.pod.Spec.ActiveDeadlineSeconds; s != nil {
		over = over || time.Since(w.begun) >= time.Duration(*s+*w.pod.Spec.TerminationGracePeriodSeconds)*time.Second
	}
	if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && !w.hooks[c.Id+" preStop"] && !over &&
		*w.pod.Spec.TerminationGracePeriodSeconds > 0 { // else there is no time for it
		w.breaks("%s is stopped before its preStop hook", c.Id)
	}
	if !podutil.IsRestartableInitContainer(spec) || w.hooks[c.Id+" liveness"] || w.hooks[c.Id+" hook"] || over {
		return
	}
	for i := range w.pod.Spec.Containers {
		if app := w.latest(w.pod.Spec.Containers[i].Name); app != nil && app.running() {
			w.breaks("sidecar %s is stopped before %s", c.Id, app.Id)
		}
	}
}

func (w *world) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range w.containers {
		out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.Id, PodSandboxId: c.sandbox})
	}
	return out, nil
}

func (w *world) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.container(r.ContainerId)
	if c == nil {
		return nil, errGone
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt,
		FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Image: c.Image,
	}}, nil
}

func (w *world) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, w.act(ctx, "remove "+r.ContainerId, func() error {
		if c := w.container(r.ContainerId); c != nil && c.running() {
			w.breaks("%s is removed while it runs", c.Id)
		}
		w.containers = slices.DeleteFunc(w.containers, func(c *container) bool { return c.Id == r.ContainerId })
		return nil
	})
}

func (w *world) ImageStatus(context.Context, *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "image", Size: 7}}, nil
}
