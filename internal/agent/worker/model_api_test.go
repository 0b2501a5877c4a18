package worker

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/plan"
)

// The Worker's other partners.

func (w *world) Setup(ctx context.Context, _ *v1.Pod) error {
	return w.act(ctx, "set up volumes", func() error { w.volumes = true; return nil })
}

func (w *world) Teardown(ctx context.Context, _ types.UID) error {
	return w.act(ctx, "tear down volumes", func() error {
		for _, c := range w.containers {
			if c.running() {
				w.breaks("the volumes go under %s", c.Id)
			}
		}
		w.volumes = false
		return nil
	})
}

func (w *world) Present(types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.volumes
}

// ExecSync runs a hook: the command is its name.
func (w *world) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	hook := r.ContainerId + " " + r.Cmd[0]
	return &runtimeapi.ExecSyncResponse{}, w.act(ctx, "hook "+hook, func() error {
		w.hooks[hook] = true
		if r.Cmd[0] == "postStart" && w.seed%7 == 0 {
			w.hooks[r.ContainerId+" hook"] = true
			return errors.New("no")
		}
		return nil
	})
}

func (w *world) Results(_ *v1.Pod, spec *v1.Container, c *plan.Container) plan.Probes {
	w.mu.Lock()
	defer w.mu.Unlock()
	running := c.State == plan.Running
	started := running && (spec.StartupProbe == nil || !w.sick[c.ID+" starting"])
	return plan.Probes{Started: started, Ready: started && !w.sick[c.ID+" unready"], LivenessFailed: running && w.sick[c.ID+" liveness"]}
}

// The API server, as far as a Worker needs it.

type client struct {
	kubernetes.Interface
	corev1.CoreV1Interface
	corev1.PodInterface
	w *world
}

func (c client) CoreV1() corev1.CoreV1Interface  { return c }
func (c client) Pods(string) corev1.PodInterface { return c }

func (c client) UpdateStatus(ctx context.Context, pod *v1.Pod, _ metav1.UpdateOptions) (out *v1.Pod, err error) {
	err = c.w.act(ctx, "report "+string(pod.Status.Phase), func() error {
		switch {
		case c.w.outage:
			return errors.New("no answer")
		case c.w.pod == nil:
			return apierrors.NewNotFound(v1.Resource("pods"), pod.Name)
		}
		c.w.checkReport(&c.w.pod.Status, &pod.Status)
		c.w.store(func(p *v1.Pod) { p.Status = *pod.Status.DeepCopy() })
		out = c.w.pod
		return nil
	})
	return out, err
}

func (c client) Delete(ctx context.Context, name string, _ metav1.DeleteOptions) error {
	return c.w.act(ctx, "remove the API object", func() error {
		switch {
		case c.w.outage:
			return errors.New("no answer")
		case c.w.pod == nil:
			return apierrors.NewNotFound(v1.Resource("pods"), name)
		case !podutil.IsPodPhaseTerminal(c.w.pod.Status.Phase):
			c.w.breaks("the API object is removed while it says %s", c.w.pod.Status.Phase)
		case c.w.volumes || len(c.w.alive()) > 0:
			c.w.breaks("the API object is removed before all of the Pod is gone: volumes %t, %v", c.w.volumes, c.w.alive())
		}
		c.w.store(func(p *v1.Pod) { p.DeletionGracePeriodSeconds = new(int64) })
		c.w.collect()
		return nil
	})
}

// collect removes an object that waits for nobody any more, as the API server does; the caller holds mu.
func (w *world) collect() {
	if g := w.pod.DeletionGracePeriodSeconds; g != nil && *g == 0 && len(w.pod.Finalizers) == 0 {
		w.edges.add("Pod", string(w.pod.Status.Phase), "[*]")
		w.pod = nil
	}
}

// store changes the API object; the caller holds mu.
func (w *world) store(edit func(*v1.Pod)) {
	w.calls++
	w.pod = w.pod.DeepCopy()
	w.pod.ResourceVersion = fmt.Sprint(w.calls)
	edit(w.pod)
}

func (w *world) alive() (names []string) {
	for _, c := range w.containers {
		if c.running() {
			names = append(names, c.Id)
		}
	}
	return names
}

// checkReport holds a status against the one before; the caller holds mu.
func (w *world) checkReport(old, s *v1.PodStatus) {
	w.edges.report(old, s)
	if podutil.IsPodPhaseTerminal(old.Phase) && s.Phase != old.Phase {
		w.breaks("phase %s becomes %s", old.Phase, s.Phase)
	}
	if podutil.IsPodPhaseTerminal(s.Phase) && len(w.alive()) > 0 {
		w.breaks("phase %s is reported while %v run", s.Phase, w.alive())
	}
	for _, lists := range [][2][]v1.ContainerStatus{{old.InitContainerStatuses, s.InitContainerStatuses}, {old.ContainerStatuses, s.ContainerStatuses}} {
		for _, c := range lists[1] {
			if before, found := podutil.GetContainerStatus(lists[0], c.Name); found && c.RestartCount < before.RestartCount {
				w.breaks("the restart count of %s falls from %d to %d", c.Name, before.RestartCount, c.RestartCount)
			}
		}
	}
}
