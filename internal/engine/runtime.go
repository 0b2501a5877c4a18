package engine

import (
	"context"
	"maps"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/version"
)

// Version tells that this is peapod.
func (e *Engine) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:     "0.1.0", // of the kubelet's runtime API, which every engine answers with this
		RuntimeName: "peapod", RuntimeVersion: version.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status tells that runtime and network are ready: an engine that was opened has both.
func (e *Engine) Status(ctx context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
		}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	for _, handler := range slices.Sorted(maps.Keys(e.runtimes)) {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: handler, Features: &runtimeapi.RuntimeHandlerFeatures{},
		})
	}
	if req.GetVerbose() {
		resp.Info = info(map[string]any{
			"runtime": e.runtimes[""].Path, "root": e.config.Root, "cgroup": e.cgroups.Mode().String(), "podCIDR": e.config.PodCIDR,
		})
	}
	return resp, nil
}

// UpdateRuntimeConfig does nothing: the engine was told its Pods' range when it was opened.
func (e *Engine) UpdateRuntimeConfig(context.Context, *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// RuntimeConfig tells the cgroup driver.
func (e *Engine) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS},
	}, nil
}
