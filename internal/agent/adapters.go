package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/agent/probe"
	"peapod.dev/peapod/internal/agent/status"
	"peapod.dev/peapod/internal/agent/volume"
)

// volumes are the node's volumes, and for each Pod what its last Setup made.
type volumes struct {
	*volume.Volumes
	root string

	mu    sync.Mutex
	ready map[types.UID]map[string]volume.Volume
}

func (v *volumes) Setup(ctx context.Context, pod *v1.Pod) error {
	made, err := v.Volumes.Setup(ctx, pod)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ready[pod.UID] = made
	return nil
}

func (v *volumes) Teardown(ctx context.Context, uid types.UID) error {
	if err := v.Volumes.Teardown(ctx, uid); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.ready, uid)
	return nil
}

func (v *volumes) Present(uid types.UID) bool {
	_, err := os.Stat(filepath.Join(v.root, string(uid), "volumes"))
	return err == nil
}

func (v *volumes) of(uid types.UID) map[string]volume.Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ready[uid]
}

// prober tells the probe manager and the planner of each other.
type prober struct{ *probe.Manager }

func (p prober) Set(pod *v1.Pod, podIP string, containers []plan.Container) {
	running := make([]probe.Running, len(containers))
	for i, c := range containers {
		running[i] = probe.Running{Name: c.Name, ID: c.ID, StartedAt: c.StartedAt, PodIP: podIP}
		if s, ok := reported(pod, c.Name, c.ID); ok {
			running[i].WasStarted, running[i].WasReady = s.Started != nil && *s.Started, s.Ready
		}
	}
	p.Manager.Set(pod, running)
}

// Results is what the probes of a running container say; before the first Set it is what was reported last.
func (p prober) Results(pod *v1.Pod, spec *v1.Container, c *plan.Container) plan.Probes {
	if c.State != plan.Running || !c.PostStartDone {
		return plan.Probes{}
	}
	last, _ := reported(pod, c.Name, c.ID)
	outcome := func(defined *v1.Probe, kind probe.Kind, otherwise probe.Outcome) probe.Outcome {
		if defined == nil {
			return probe.Success
		}
		if o, ok := p.Get(pod.UID, c.ID, kind); ok {
			return o
		}
		return otherwise
	}
	was := func(b bool) probe.Outcome {
		if b {
			return probe.Success
		}
		return probe.Unknown
	}
	startup := outcome(spec.StartupProbe, probe.Startup, was(last.Started != nil && *last.Started))
	return plan.Probes{
		Started:        startup == probe.Success,
		StartupFailed:  startup == probe.Failure,
		LivenessFailed: outcome(spec.LivenessProbe, probe.Liveness, probe.Success) == probe.Failure,
		Ready:          outcome(spec.ReadinessProbe, probe.Readiness, was(last.Ready)) == probe.Success,
	}
}

// reported finds the status last reported of this very container.
func reported(pod *v1.Pod, name, id string) (v1.ContainerStatus, bool) {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		if s, ok := podutil.GetContainerStatus(list, name); ok && s.ContainerID == status.Runtime+"://"+id {
			return s, true
		}
	}
	return v1.ContainerStatus{}, false
}
