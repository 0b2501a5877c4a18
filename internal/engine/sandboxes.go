package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/sandbox"
	"peapod.dev/peapod/internal/fault"
)

func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

// RunPodSandbox makes the Pod's namespaces, network and files. On error nothing is left of them.
func (e *Engine) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	config, handler := req.GetConfig(), req.GetRuntimeHandler()
	if config.GetMetadata() == nil {
		return nil, grpcstatus.Error(codes.InvalidArgument, "sandbox config must include metadata")
	}
	runtime := e.runtimes[handler]
	if runtime == nil {
		return nil, grpcstatus.Errorf(codes.InvalidArgument, "no runtime for %q is configured", handler)
	}
	id, name := newID(), sandboxName(config.GetMetadata())
	if err := e.registry.reserve(name, id); err != nil {
		return nil, err
	}
	r := sandbox.Record{
		ID: id, Config: proto.CloneOf(config), Handler: handler, CreatedAt: time.Now().UnixNano(),
		CgroupParent: config.GetLinux().GetCgroupParent(),
	}
	if r.CgroupParent == "" {
		r.CgroupParent = path.Join(e.config.CgroupParent, id)
	}
	if err := e.runSandbox(ctx, r); err != nil {
		e.registry.release(name, id)
		return nil, internal(err)
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (e *Engine) runSandbox(ctx context.Context, r sandbox.Record) error {
	if dir := r.Config.GetLogDirectory(); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot create the log folder: %w", err)
		}
	}
	if err := e.cgroups.Create(r.CgroupParent, r.Config.GetLinux().GetResources()); err != nil {
		return fmt.Errorf("cannot create the Pod's cgroup: %w", err)
	}
	fault.Point("pod cgroup made")
	s, err := sandbox.Create(ctx, e.sandboxes, r, e.runtimeFor(r.Handler))
	if err != nil {
		return errors.Join(err, e.removeCgroup(context.WithoutCancel(ctx), r))
	}
	e.registry.addSandbox(s)
	e.publish(s, s.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	e.publish(s, s.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

// removeCgroup removes the Pod's group, unless it is the caller's or another attempt of the Pod's sandbox uses it.
func (e *Engine) removeCgroup(ctx context.Context, r sandbox.Record) error {
	if !strings.HasPrefix(r.CgroupParent, e.config.CgroupParent+"/") {
		return nil
	}
	for _, other := range e.registry.allSandboxes() {
		if other.ID != r.ID && other.CgroupParent == r.CgroupParent {
			return nil
		}
	}
	return e.cgroups.Remove(ctx, r.CgroupParent)
}

// StopPodSandbox kills the sandbox' containers and gives back its network. Idempotent.
func (e *Engine) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	return &runtimeapi.StopPodSandboxResponse{}, internal(e.stopSandbox(ctx, s))
}

func (e *Engine) stopSandbox(ctx context.Context, s *sandbox.Sandbox) error {
	var g errgroup.Group
	for _, c := range e.registry.containersOf(s.ID) {
		g.Go(func() error { return c.Stop(ctx, 0) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	wasReady := s.Ready()
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if wasReady {
		e.publish(s, s.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// RemovePodSandbox stops and removes the sandbox and its containers. Idempotent.
func (e *Engine) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	return &runtimeapi.RemovePodSandboxResponse{}, internal(e.removeSandbox(ctx, s))
}

func (e *Engine) removeSandbox(ctx context.Context, s *sandbox.Sandbox) error {
	if err := e.stopSandbox(ctx, s); err != nil {
		return err
	}
	var g errgroup.Group
	for _, c := range e.registry.containersOf(s.ID) {
		g.Go(func() error { return e.removeContainer(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := e.removeCgroup(ctx, s.Record); err != nil {
		return err
	}
	fault.Point("pod cgroup removed")
	if err := s.Remove(); err != nil {
		return fmt.Errorf("cannot remove sandbox %s: %w", s.ID, err)
	}
	e.registry.deleteSandbox(s)
	e.publish(s, s.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// initEnded reports a sandbox whose shared PID namespace has died.
func (e *Engine) initEnded(s *sandbox.Sandbox) {
	e.publish(s, s.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// PodSandboxStatus tells what a sandbox is and does.
func (e *Engine) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	s.Check()
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status: sandboxStatus(s), ContainersStatuses: e.containerStatuses(s.ID), Timestamp: time.Now().UnixNano(),
	}
	if req.GetVerbose() {
		resp.Info = info(map[string]any{"config": s.Config, "netns": s.NetNS(), "cgroupParent": s.CgroupParent})
	}
	return resp, nil
}

// ListPodSandbox lists the sandboxes that match the filter, newest first.
func (e *Engine) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	resp := &runtimeapi.ListPodSandboxResponse{}
	f := req.GetFilter()
	for _, s := range e.registry.allSandboxes() {
		state := sandboxState(s)
		if strings.HasPrefix(s.ID, f.GetId()) && (f.GetState() == nil || f.GetState().GetState() == state) &&
			matches(f.GetLabelSelector(), s.Config.GetLabels()) {
			resp.Items = append(resp.Items, &runtimeapi.PodSandbox{
				Id: s.ID, Metadata: s.Config.GetMetadata(), State: state, CreatedAt: s.CreatedAt,
				Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
			})
		}
	}
	return resp, nil
}

// UpdatePodSandboxResources sets the limits of the whole Pod.
func (e *Engine) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, internal(e.cgroups.Update(s.CgroupParent, req.GetResources()))
}
