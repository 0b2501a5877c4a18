package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // teaches the scheme to read PodLogOptions from a query
	"k8s.io/kubernetes/pkg/apis/core/v1/validation"
)

// serveLogs answers with the log of one container, and follows it until the container ends if asked.
func (s *Server) serveLogs(w http.ResponseWriter, r *http.Request) {
	ctx, name := r.Context(), r.PathValue("container")
	options, code, err := decodeLogOptions(r)
	if err != nil {
		writeError(w, code, err)
		return
	}
	pod := s.pod(r)
	if pod == nil {
		writeError(w, http.StatusNotFound, fmt.Errorf("pod %q does not exist", r.PathValue("pod")))
		return
	}
	if found, _ := hasContainer(pod, name); !found {
		writeError(w, http.StatusNotFound, fmt.Errorf("container %q not found in pod %q", name, pod.Name))
		return
	}
	containerID, err := loggedContainer(pod, name, options.Previous)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	_, id, _ := strings.Cut(containerID, "://")
	status, err := s.cfg.Engine.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		s.log.Info("Cannot get the status of a container whose log is wanted", "container", containerID, "error", err)
		writeError(w, http.StatusBadRequest, fmt.Errorf("unable to retrieve container logs for %v", containerID))
		return
	}
	log, err := openLog(status.GetStatus().GetLogPath(), newLogOptions(options, time.Now()))
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	defer log.close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := flushwriter.Wrap(w)
	_, _ = out.Write(nil) // the client learns at once that there is a log, however quiet it is

	exited := make(chan struct{})
	if options.Follow {
		waitCtx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			s.cfg.Exited(waitCtx, id)
			close(exited)
		})
	} else {
		close(exited)
	}
	if err := log.copy(ctx, out, exited); err != nil && ctx.Err() == nil {
		// The status has been sent; all that is left is not to let it look complete.
		s.log.Warn("Cannot read a container's log", "container", containerID, "error", err)
		panic(http.ErrAbortHandler)
	}
}

func decodeLogOptions(r *http.Request) (*v1.PodLogOptions, int, error) {
	query := r.URL.Query()
	if tail := query.Get("tail"); tail == "all" {
		query.Del("tailLines")
	} else if tail != "" {
		query.Set("tailLines", tail)
	}
	options := &v1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(query, v1.SchemeGroupVersion, options); err != nil {
		return nil, http.StatusBadRequest, errors.New(`{"message": "Unable to decode query."}`)
	}
	if len(validation.ValidatePodLogOptions(options)) > 0 {
		return nil, http.StatusUnprocessableEntity, errors.New(`{"message": "Invalid request."}`)
	}
	return options, 0, nil
}

// loggedContainer picks the container ID, with its runtime's scheme, whose log the user means, by the
// rules of validateContainerLogStatus in pkg/kubelet/kubelet_pods.go.
func loggedContainer(pod *v1.Pod, name string, previous bool) (string, error) {
	status := containerStatus(pod, name)
	if status == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	last := ""
	if t := status.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	state := status.State
	switch {
	case previous:
		if last == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		return last, nil
	case state.Running != nil:
		return status.ContainerID, nil
	case state.Terminated != nil && state.Terminated.ContainerID != "":
		return state.Terminated.ContainerID, nil
	case last != "": // the next one has not started
		return last, nil
	case state.Terminated != nil || status.LastTerminationState.Terminated != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
	case state.Waiting != nil:
		why := state.Waiting.Reason
		switch why {
		case "ErrImagePull":
			why = "image can't be pulled"
		case "ImagePullBackOff":
			why = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, why)
	}
	return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
}

func containerStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
