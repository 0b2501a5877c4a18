package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/fault"
)

// StartContainer runs a created container. When that fails, the container has exited with code 128 and reason StartError.
func (e *Engine) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := e.registry.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	s, err := e.registry.sandbox(c.SandboxID)
	if err != nil {
		return nil, err
	}
	if s.Check(); !s.Ready() {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", s.ID)
	}
	err = c.Start(ctx, s.Durable)
	if errors.Is(err, container.ErrNotCreated) {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "cannot start container %s: %v", c.ID, err)
	}
	if err != nil {
		return nil, internal(fmt.Errorf("container create failed: %w", err))
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends a container within its timeout (seconds; 0: at once) and returns when it has ended. Idempotent.
func (e *Engine) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := e.registry.container(req.GetContainerId())
	if err != nil {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	return &runtimeapi.StopContainerResponse{}, internal(c.Stop(ctx, time.Duration(req.GetTimeout())*time.Second))
}

// RemoveContainer removes a container, killing it if it runs. Its log stays. Idempotent.
func (e *Engine) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := e.registry.container(req.GetContainerId())
	if err != nil {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	return &runtimeapi.RemoveContainerResponse{}, internal(e.removeContainer(ctx, c))
}

func (e *Engine) removeContainer(ctx context.Context, c *container.Container) error {
	if err := c.Stop(ctx, 0); err != nil {
		return err
	}
	if err := e.discard(ctx, c); err != nil {
		return err
	}
	if s, err := e.registry.sandbox(c.SandboxID); err == nil {
		e.publish(s, c.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return nil
}

// discard deletes a container that does not run. Its record goes last, so that what a crash interrupts is done again.
func (e *Engine) discard(ctx context.Context, c *container.Container) error {
	if err := c.Retire(); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return c.Settle(ctx) })
	g.Go(func() error { return e.deleteFilesystems(c.ID, c.ImageMounts) })
	if err := g.Wait(); err != nil {
		return err
	}
	fault.Point("root filesystem deleted")
	if err := c.Remove(); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.ID, err)
	}
	e.registry.deleteContainer(c)
	return nil
}

func (e *Engine) deleteFilesystems(id string, imageMounts []string) error {
	err := e.images.DeleteRootfs(id)
	for _, mount := range imageMounts {
		err = errors.Join(err, e.images.UnmountImage(mount))
	}
	return err
}

// ListContainers lists the containers that match the filter, newest first.
func (e *Engine) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	f := req.GetFilter()
	for _, c := range e.registry.allContainers() {
		state := c.Status().State
		if !strings.HasPrefix(c.ID, f.GetId()) || !strings.HasPrefix(c.SandboxID, f.GetPodSandboxId()) ||
			f.GetState() != nil && f.GetState().GetState() != state || !matches(f.GetLabelSelector(), c.Config.GetLabels()) {
			continue
		}
		resp.Containers = append(resp.Containers, &runtimeapi.Container{
			Id: c.ID, PodSandboxId: c.SandboxID, Metadata: c.Config.GetMetadata(), Image: c.Config.GetImage(),
			ImageRef: c.ImageRef, ImageId: c.ImageID, State: state, CreatedAt: c.CreatedAt,
			Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		})
	}
	return resp, nil
}

// ContainerStatus tells what a container is and does.
func (e *Engine) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := e.registry.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c)}
	if req.GetVerbose() {
		resp.Info = info(map[string]any{
			"pid": c.Status().PID, "sandboxID": c.SandboxID, "cgroup": c.Cgroup, "bundle": c.Bundle(), "runtime": c.Runtime().Name,
		})
	}
	return resp, nil
}

// UpdateContainerResources changes the limits of a created or running container.
func (e *Engine) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := e.registry.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := c.Update(req.GetLinux()); err != nil {
		return nil, internal(fmt.Errorf("cannot update the resources of container %s: %w", c.ID, err))
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog makes the container's log continue in a new file at its path, after the old one was renamed.
func (e *Engine) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := e.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, internal(c.ReopenLog(ctx))
}

// running finds a container that runs.
func (e *Engine) running(id string) (*container.Container, error) {
	c, err := e.registry.container(id)
	if err != nil {
		return nil, err
	}
	if c.Status().State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "container %s: %v", c.ID, container.ErrNotRunning)
	}
	return c, nil
}
