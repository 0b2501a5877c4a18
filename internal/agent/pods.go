package agent

import (
	"context"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"peapod.dev/peapod/internal/agent/admit"
	"peapod.dev/peapod/internal/agent/containerconfig"
	"peapod.dev/peapod/internal/agent/plan"
	"peapod.dev/peapod/internal/agent/worker"
)

// The labels by which the engine's objects tell whose they are, as the kubelet sets them.
const (
	labelPodName      = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelPodUID       = "io.kubernetes.pod.uid"
)

// workers are the Workers of this node's Pods by UID, each with its goroutine.
type workers struct {
	agent *Agent
	ctx   context.Context // ends with Run: Workers live no longer
	wg    sync.WaitGroup

	// admitting is held while a Pod is admitted or resized: what is granted to one is seen by the next.
	admitting sync.Mutex

	mu    sync.Mutex
	byUID map[types.UID]*worker.Worker
}

// get returns the Worker of the Pod, nil if there is none.
func (ws *workers) get(uid types.UID) *worker.Worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.byUID[uid]
}

// all returns every Worker.
func (ws *workers) all() []*worker.Worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	out := make([]*worker.Worker, 0, len(ws.byUID))
	for _, w := range ws.byUID {
		out = append(out, w)
	}
	return out
}

// start makes and runs the Worker of a Pod that has none; prepare sees it before it runs.
func (ws *workers) start(pod *v1.Pod, prepare func(*worker.Worker)) {
	w := worker.New(ws.agent.worker, pod)
	if prepare != nil {
		prepare(w)
	}
	ws.mu.Lock()
	ws.byUID[pod.UID] = w
	ws.mu.Unlock()
	ws.wg.Add(1)
	go func() {
		defer ws.wg.Done()
		if w.Run(ws.ctx) {
			ws.mu.Lock()
			delete(ws.byUID, pod.UID)
			ws.mu.Unlock()
			ws.agent.removePodDirs(ws.ctx, pod.UID, ws.agent.podLogs(pod))
		}
	}()
}

// update takes a Pod as the API has it, and had it before if it was known. Pods come here from one goroutine, the informer's.
func (ws *workers) update(old, pod *v1.Pod) {
	if w := ws.get(pod.UID); w != nil {
		w.Update(pod)
		if old != nil && makesRoomOrWantsIt(old, pod) {
			ws.agent.resize()
		}
		return
	}
	ws.agent.volumes.Prefetch(pod)
	ws.admitting.Lock()
	defer ws.admitting.Unlock()
	ws.start(pod, func(w *worker.Worker) {
		if refusal := ws.agent.refuse(pod); refusal != nil {
			ws.agent.events.Eventf(pod, v1.EventTypeWarning, refusal.Reason, "%s", refusal.Message)
			refusal.Message = "Pod was rejected: " + refusal.Message
			w.End(*refusal)
		}
	})
}

// delete takes the news that a Pod's API object is gone.
func (ws *workers) delete(pod *v1.Pod) {
	if w := ws.get(pod.UID); w != nil {
		w.Delete()
		ws.agent.resize()
	}
}

// refuse asks whether this node takes the Pod; nil means yes. A Pod that has been taken before stays so.
func (a *Agent) refuse(pod *v1.Pod) *plan.End {
	if pod.DeletionTimestamp != nil || podutil.IsPodPhaseTerminal(pod.Status.Phase) || pod.Status.StartTime != nil {
		return nil
	}
	node, err := a.getNode()
	if err != nil {
		return nil // not registered yet: the scheduler has decided
	}
	if ok, reason, message := admit.Admit(node, a.others(pod), pod, a.machine.admission); !ok {
		return &plan.End{Reason: reason, Message: message}
	}
	return nil
}

// others are the Pods that weigh on this node, but for pod.
func (a *Agent) others(pod *v1.Pod) []*v1.Pod {
	var others []*v1.Pod
	for _, w := range a.workers.all() {
		if p := w.Weight(); p != nil && p.UID != pod.UID {
			others = append(others, p)
		}
	}
	return others
}

// watchPods brings this node's Pods to their Workers until ctx ends, and gives Workers to what the engine
// still holds of Pods that exist no longer.
func (a *Agent) watchPods(ctx context.Context) error {
	list := cache.NewListWatchFromClient(a.cfg.Client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll,
		fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: &v1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { a.workers.update(nil, o.(*v1.Pod)) },
			UpdateFunc: func(old, o any) { a.replace(old.(*v1.Pod), o.(*v1.Pod)) },
			DeleteFunc: func(o any) {
				if tomb, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = tomb.Obj
				}
				if pod, ok := o.(*v1.Pod); ok {
					a.workers.delete(pod)
				}
			},
		},
		Transform: func(o any) (any, error) {
			if pod, ok := o.(*v1.Pod); ok {
				pod.ManagedFields = nil
			}
			return o, nil
		},
	})
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	if err := a.adoptOrphans(ctx); err != nil {
		return err
	}
	a.resize() // what waited when an earlier agent ended
	<-ctx.Done()
	return nil
}

// replace takes an update; a Pod deleted and made again under its name between two views has a new UID.
func (a *Agent) replace(old, pod *v1.Pod) {
	if old.UID != pod.UID {
		a.workers.delete(old)
	}
	a.workers.update(old, pod)
}

// adoptOrphans gives a Worker to every Pod that the engine knows and the API does not, so that it ends, as far as its
// containers tell with its preStop hooks and its grace period. The kubelet gives such Pods a second.
func (a *Agent) adoptOrphans(ctx context.Context) error {
	sandboxes, err := a.cfg.Engine.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	containers, err := a.cfg.Engine.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, s := range sandboxes.Items {
		uid := types.UID(s.Labels[labelPodUID])
		if uid == "" || a.workers.get(uid) != nil {
			continue // no Pod's, such as one made by crictl; or not an orphan
		}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Name: s.Labels[labelPodName], Namespace: s.Labels[labelPodNamespace]}}
		for _, c := range containers.Containers {
			if types.UID(c.Labels[labelPodUID]) == uid {
				containerconfig.Restore(pod, c.Metadata.GetName(), c.Annotations)
			}
		}
		a.log.Info("removing what is left of a pod that exists no longer", "pod", pod.Namespace+"/"+pod.Name, "uid", uid)
		a.workers.start(pod, func(w *worker.Worker) { w.Delete() })
	}
	return a.removeStrayDirs(ctx)
}

// followEngine tells the Worker of each Pod that the engine reports on, and those who follow logs, until ctx ends.
func (a *Agent) followEngine(ctx context.Context) error {
	return a.cfg.Engine.GetContainerEvents(&runtimeapi.GetEventsRequest{}, &eventStream{ctx: ctx, receive: func(e *runtimeapi.ContainerEventResponse) {
		uid := types.UID(e.GetPodSandboxStatus().GetLabels()[labelPodUID])
		if uid == "" {
			uid = types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())
		}
		a.changes.happened()
		for _, s := range e.GetContainersStatuses() {
			a.logs.Update(s)
		}
		if w := a.workers.get(uid); w != nil {
			w.Poke()
		}
	}})
}
