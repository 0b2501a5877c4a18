package engine

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/sandbox"
)

// internal makes err a gRPC status, with its text as it is. An error that has a status keeps it.
func internal(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := grpcstatus.FromError(err); ok {
		return s.Err()
	}
	code := codes.Unknown // what other engines answer, and clients know
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return grpcstatus.Error(code, err.Error())
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func sandboxState(s *sandbox.Sandbox) runtimeapi.PodSandboxState {
	if s.Ready() {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxStatus(s *sandbox.Sandbox) *runtimeapi.PodSandboxStatus {
	network := &runtimeapi.PodSandboxNetworkStatus{}
	if ips := s.IPs(); len(ips) > 0 {
		network.Ip = ips[0].String()
		for _, ip := range ips[1:] {
			network.AdditionalIps = append(network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
		}
	}
	options := s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		options = &runtimeapi.NamespaceOption{}
	}
	return &runtimeapi.PodSandboxStatus{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: sandboxState(s), CreatedAt: s.CreatedAt, Network: network,
		Linux:  &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func containerStatus(c *container.Container) *runtimeapi.ContainerStatus {
	s := c.Status()
	resources := s.Resources
	if resources == nil {
		resources = c.Config.GetLinux().GetResources()
	}
	stopSignal, _ := container.Signal(c.StopSignal) // was checked at creation
	return &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: c.Config.GetMetadata(), State: s.State,
		CreatedAt: c.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: c.Config.GetImage(), ImageRef: c.ImageRef, ImageId: c.ImageID,
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(), Mounts: c.Config.GetMounts(), LogPath: c.LogPath,
		Resources: &runtimeapi.ContainerResources{Linux: resources}, User: &runtimeapi.ContainerUser{Linux: c.User},
		StopSignal: stopSignal,
	}
}

func (e *Engine) containerStatuses(sandboxID string) []*runtimeapi.ContainerStatus {
	var all []*runtimeapi.ContainerStatus
	for _, c := range e.registry.containersOf(sandboxID) {
		all = append(all, containerStatus(c))
	}
	return all
}

// info is the verbose part of an answer: each value as JSON.
func info(values map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range values {
		if data, err := json.Marshal(v); err == nil {
			out[k] = string(data)
		}
	}
	return out
}
