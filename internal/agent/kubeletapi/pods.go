package kubeletapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

var errNoPod = errors.New("pod does not exist")

// servePods lists the Pods that this node is to run.
func (s *Server) servePods(w http.ResponseWriter, _ *http.Request) {
	list := newPodList()
	for _, pod := range s.cfg.Pods() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

// serveRunningPods lists what the engine runs, wanted or not.
func (s *Server) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	sandboxes, err := s.cfg.Engine.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	containers, err := s.cfg.Engine.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{State: running()}})
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	list := newPodList()
	for _, sandbox := range sandboxes.Items {
		meta := sandbox.GetMetadata()
		pod := v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: types.UID(meta.GetUid())}}
		for _, c := range containers.Containers {
			if c.PodSandboxId == sandbox.Id {
				pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
			}
		}
		list.Items = append(list.Items, pod)
	}
	writeJSON(w, list)
}

func newPodList() *v1.PodList {
	return &v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails only when the client has gone
}

// pod finds the Pod that a request's path names; nil if there is none.
func (s *Server) pod(r *http.Request) *v1.Pod {
	uid := r.PathValue("uid")
	for _, p := range s.cfg.Pods() {
		if p.Namespace == r.PathValue("namespace") && p.Name == r.PathValue("pod") && (uid == "" || string(p.UID) == uid) {
			return p
		}
	}
	return nil
}

// hasContainer returns whether the Pod's spec has a container of that name, and whether it has a terminal.
func hasContainer(pod *v1.Pod, name string) (found, tty bool) {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return true, list[i].TTY
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; c.Name == name {
			return true, c.TTY
		}
	}
	return false, false
}

// runningContainer returns the engine's ID of the container, "" when none of that name runs.
func (s *Server) runningContainer(ctx context.Context, pod *v1.Pod, name string) (string, error) {
	resp, err := s.cfg.Engine.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: running(),
		LabelSelector: map[string]string{
			kubelettypes.KubernetesPodUIDLabel: string(pod.UID), kubelettypes.KubernetesContainerNameLabel: name,
		},
	}})
	if err != nil {
		return "", err
	}
	var newest *runtimeapi.Container
	for _, c := range resp.Containers {
		if newest == nil || c.CreatedAt > newest.CreatedAt {
			newest = c
		}
	}
	return newest.GetId(), nil
}

func running() *runtimeapi.ContainerStateValue {
	return &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
}

// serveRun runs one command and answers with what it printed.
func (s *Server) serveRun(w http.ResponseWriter, r *http.Request) {
	pod := s.pod(r)
	if pod == nil {
		writeError(w, http.StatusNotFound, errNoPod)
		return
	}
	id, err := s.runningContainer(r.Context(), pod, r.PathValue("container"))
	if err == nil && id == "" {
		err = fmt.Errorf("container not found (%q)", r.PathValue("container"))
	}
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	command := strings.Split(r.FormValue("cmd"), " ") // unlike exec; nobody dares to change it
	resp, err := s.cfg.Engine.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
	if err == nil && resp.ExitCode != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), resp.ExitCode, resp.Stderr)
	}
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json") // so says the contract, whatever the command prints
	_, _ = w.Write(resp.Stdout)
	_, _ = w.Write(resp.Stderr)
}
