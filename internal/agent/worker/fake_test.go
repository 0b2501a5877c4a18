package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// fakeEngine keeps sandboxes and containers in memory. A container runs until it is stopped; with deaf set it
// ignores its stop signal and lives until the timeout.
type fakeEngine struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	changed func() // called after every change, as an engine's events are

	mu         sync.Mutex
	log        []string
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*runtimeapi.ContainerStatus
	images     map[string]bool
	pullErr    error
	deaf       bool
	hook       time.Duration // how long commands take that are exec'd
	hookErr    error         // how they end
	logPath    string        // of every container
	// createTakes passes before a container is made, listTakes after the containers have been looked at.
	createTakes, listTakes time.Duration
}

func (e *fakeEngine) note(format string, args ...any) {
	e.log = append(e.log, fmt.Sprintf(format, args...))
	go e.changed()
}

func (e *fakeEngine) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &runtimeapi.PodSandboxStatus{
		Id: fmt.Sprintf("s%d", len(e.sandboxes)), Metadata: r.Config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Now().UnixNano(), Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.9"},
	}
	e.sandboxes = append(e.sandboxes, s)
	e.note("sandbox")
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

func (e *fakeEngine) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range e.sandboxes {
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id})
	}
	return out, nil
}

func (e *fakeEngine) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sandboxes {
		if s.Id == r.PodSandboxId {
			c := &runtimeapi.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network}
			return &runtimeapi.PodSandboxStatusResponse{Status: c}, nil
		}
	}
	return nil, grpcstatus.Error(codes.NotFound, "no such sandbox")
}

func (e *fakeEngine) StopPodSandbox(context.Context, *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sandboxes {
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	e.note("stop sandbox")
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (e *fakeEngine) RemovePodSandbox(context.Context, *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sandboxes, e.containers = nil, nil
	e.note("remove sandbox")
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (e *fakeEngine) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	time.Sleep(e.createTakes)
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &runtimeapi.ContainerStatus{
		Id: fmt.Sprintf("%s-%d", r.Config.Metadata.Name, r.Config.Metadata.Attempt), Metadata: r.Config.Metadata,
		Labels: r.Config.Labels, Annotations: r.Config.Annotations, ImageRef: r.Config.Image.Image, LogPath: e.logPath,
		State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(), Image: r.Config.Image,
	}
	e.containers = append(e.containers, c)
	e.note("create %s", c.Id)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.Id}, nil
}

// change edits a container under the lock.
func (e *fakeEngine) change(id string, edit func(*runtimeapi.ContainerStatus)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.Id == id {
			edit(c)
			go e.changed()
			return nil
		}
	}
	return grpcstatus.Error(codes.NotFound, "no such container")
}

func (e *fakeEngine) exit(id string, code int32) {
	_ = e.change(id, func(c *runtimeapi.ContainerStatus) {
		c.State, c.ExitCode, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	})
}

func (e *fakeEngine) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, e.change(r.ContainerId, func(c *runtimeapi.ContainerStatus) {
		c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
		e.note("start %s", c.Id)
	})
}

func (e *fakeEngine) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	e.mu.Lock()
	deaf := e.deaf
	e.note("stop %s timeout=%d", r.ContainerId, r.Timeout)
	e.mu.Unlock()
	code := int32(143)
	if deaf {
		code = 137
		select {
		case <-time.After(time.Duration(r.Timeout) * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s, err := e.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.ContainerId}); err == nil &&
		s.Status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		e.exit(r.ContainerId, code)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (e *fakeEngine) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers = slices.DeleteFunc(e.containers, func(c *runtimeapi.ContainerStatus) bool { return c.Id == r.ContainerId })
	e.note("remove %s", r.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ExecSync ends with the container, as a real command does.
func (e *fakeEngine) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	e.mu.Lock()
	e.note("hook %s %s", r.ContainerId, r.Cmd[0])
	e.mu.Unlock()
	for end := time.Now().Add(e.hook); time.Now().Before(end); {
		select {
		case <-time.After(min(time.Until(end), 100*time.Millisecond)):
		case <-ctx.Done():
			return nil, grpcstatus.FromContextError(ctx.Err()).Err()
		}
		s, err := e.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.ContainerId})
		if err != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return &runtimeapi.ExecSyncResponse{Stdout: []byte("so far"), ExitCode: 137}, nil
		}
	}
	return &runtimeapi.ExecSyncResponse{}, e.hookErr
}

func (e *fakeEngine) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	e.mu.Lock()
	defer time.Sleep(e.listTakes)
	defer e.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range e.containers {
		if of := r.GetFilter().GetLabelSelector()[completionLabel]; of != "" && c.Labels[completionLabel] != of {
			continue
		}
		out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.Id, Labels: c.Labels, PodSandboxId: fmt.Sprintf("s%d", len(e.sandboxes)-1)})
	}
	return out, nil
}

func (e *fakeEngine) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.Id == r.ContainerId {
			out := &runtimeapi.ContainerStatus{
				Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt,
				FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Image: c.Image, ImageRef: c.ImageRef, LogPath: c.LogPath,
				Labels: c.Labels, Annotations: c.Annotations,
			}
			return &runtimeapi.ContainerStatusResponse{Status: out}, nil
		}
	}
	return nil, grpcstatus.Error(codes.NotFound, "no such container")
}

func (e *fakeEngine) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.images[r.Image.Image] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: r.Image.Image, Size: 7}}, nil
}

func (e *fakeEngine) PullImage(_ context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.note("pull %s", r.Image.Image)
	if e.pullErr != nil {
		return nil, e.pullErr
	}
	e.images[r.Image.Image] = true
	return &runtimeapi.PullImageResponse{ImageRef: r.Image.Image}, nil
}

// fakes are the worker's other partners: volumes that are there at once, specs with next to nothing in them.
type fakes struct{ mounted atomic.Bool }

func (f *fakes) Setup(context.Context, *v1.Pod) error           { f.mounted.Store(true); return nil }
func (*fakes) Update(context.Context, *v1.Pod) error            { return nil }
func (f *fakes) Teardown(context.Context, types.UID) error      { f.mounted.Store(false); return nil }
func (f *fakes) Present(types.UID) bool                         { return f.mounted.Load() }
func (*fakes) Handler(context.Context, *v1.Pod) (string, error) { return "", nil }
func (*fakes) Sandbox(pod *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: pod.Name, Attempt: attempt}}, nil
}
func (*fakes) Container(_ context.Context, _ *v1.Pod, c *v1.Container, a Attempt) (*runtimeapi.ContainerConfig, error) {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(a.Number)}, Image: &runtimeapi.ImageSpec{Image: c.Image},
	}, nil
}
func (*fakes) Limits(*v1.Pod) Limits                 { return Limits{} }
func (*fakes) Set(*v1.Pod, string, []plan.Container) {}
func (*fakes) Remove(types.UID)                      {}
func (*fakes) Results(_ *v1.Pod, _ *v1.Container, c *plan.Container) plan.Probes {
	return plan.Probes{Started: c.State == plan.Running, Ready: c.State == plan.Running}
}
