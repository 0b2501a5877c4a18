package worker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"peapod.dev/peapod/internal/agent/plan"
)

// Waiting reasons of images, in upstream's spelling.
const (
	errImagePull      = "ErrImagePull"
	imagePullBackOff  = "ImagePullBackOff"
	errImageNeverPull = "ErrImageNeverPull"
	invalidImageName  = "InvalidImageName"
	imageInspectError = "ImageInspectError"
)

// pull makes the container's image present by its imagePullPolicy ("Images", Image pull policy).
func (w *Worker) pull(ctx context.Context, pod *v1.Pod, name string) {
	spec := plan.Spec(pod, name)
	if spec == nil {
		return
	}
	found, reason, message := w.ensure(ctx, pod, spec)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if reason == "" {
		w.memory.images[name], w.memory.present[name] = plan.Image{Ref: found.Id}, found
		if plan.ImageFailure(w.memory.failures[name].Reason) {
			delete(w.memory.failures, name)
		}
		return
	}
	now, old := time.Now(), w.memory.images[name]
	delay := plan.BackoffBase
	if old.Delay != 0 && plan.PullFailure(reason) { // what can be seen without a registry is looked at again soon
		delay = min(2*old.Delay, plan.BackoffMax)
	}
	w.memory.images[name] = plan.Image{Failed: now, Retry: now.Add(delay), Delay: delay}
	w.memory.failures[name] = plan.Failure{Reason: reason, Message: message, At: now}
	w.event(pod, spec, v1.EventTypeWarning, "Failed", "Error: %s", reason)
}

// backOffPull shows that the next pull waits, once for each wait; the caller holds mu.
func (w *Worker) backOffPull(pod *v1.Pod, a plan.BackOffPull) {
	spec, f := plan.Spec(pod, a.Container), w.memory.failures[a.Container]
	if spec == nil || !plan.PullFailure(f.Reason) {
		return
	}
	w.memory.failures[a.Container] = plan.Failure{Reason: imagePullBackOff, At: f.At,
		Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", spec.Image, f.Reason, f.Message)}
	w.event(pod, spec, v1.EventTypeNormal, "BackOff", "Back-off pulling image %q", spec.Image)
	w.event(pod, spec, v1.EventTypeWarning, "Failed", "Error: %s", imagePullBackOff)
	w.Poke()
}

// ensure returns the image as the engine has it, or the waiting reason and message.
func (w *Worker) ensure(ctx context.Context, pod *v1.Pod, c *v1.Container) (found *runtimeapi.Image, reason, message string) {
	named, err := reference.ParseDockerRef(c.Image)
	if err != nil {
		message = fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)
		w.event(pod, c, v1.EventTypeWarning, "InspectFailed", "%s", message)
		return nil, invalidImageName, message
	}
	image := &runtimeapi.ImageSpec{Image: named.String(), UserSpecifiedImage: c.Image}
	st, err := w.cfg.Engine.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: image})
	if err != nil {
		message = fmt.Sprintf("Failed to inspect image %q: %v", c.Image, grpcstatus.Convert(err).Message())
		w.event(pod, c, v1.EventTypeWarning, "InspectFailed", "%s", message)
		return nil, imageInspectError, message
	}
	present := st.Image // nil if there is none
	switch {
	case c.ImagePullPolicy == v1.PullNever && present == nil:
		message = fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		w.event(pod, c, v1.EventTypeWarning, errImageNeverPull, "%s", message)
		return nil, errImageNeverPull, message
	case present != nil && c.ImagePullPolicy != v1.PullAlways:
		w.event(pod, c, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return present, "", ""
	}
	return w.download(ctx, pod, c, image, present)
}

// download pulls the image; present is the copy that this machine has, if any.
func (w *Worker) download(ctx context.Context, pod *v1.Pod, c *v1.Container, image *runtimeapi.ImageSpec, present *runtimeapi.Image) (found *runtimeapi.Image, reason, message string) {
	w.event(pod, c, v1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	begin := time.Now()
	auths, missing, err := w.cfg.Credentials(ctx, pod, image.Image)
	if err != nil {
		return nil, errImagePull, err.Error()
	}
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, auth := range auths {
		r, err := w.cfg.Engine.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image, Auth: auth})
		if err == nil {
			found, err = w.pulled(ctx, r.ImageRef)
		}
		if err == nil {
			took := time.Since(begin).Truncate(time.Millisecond)
			w.event(pod, c, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", c.Image, took, took, found.Size)
			return found, "", ""
		}
		errs = append(errs, err)
	}
	if present != nil && unreachable(errs[len(errs)-1]) {
		// No registry can be asked and the machine has this very image: it was put there on purpose
		// (`peapod image load`), see docs/adr/0002-local-images.md.
		w.event(pod, c, v1.EventTypeWarning, "Pulled", "Cannot reach the registry of image %q: using the copy on this machine", c.Image)
		return present, "", ""
	}
	var texts []string
	for _, e := range errs {
		texts = append(texts, grpcstatus.Convert(e).Message())
	}
	message = strings.Join(texts, "; ")
	w.event(pod, c, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %s", c.Image, message)
	if reason, message = pullReason(c.Image, message); reason == errImagePull && len(missing) > 0 {
		w.event(pod, nil, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	return nil, reason, message
}

// pullReason is the waiting reason and message of a failed pull: a runtime may tell two kinds of failure apart by a prefix.
func pullReason(image, message string) (reason, told string) {
	for kind, text := range map[error]string{
		crierrors.ErrRegistryUnavailable:       "the registry is unavailable",
		crierrors.ErrSignatureValidationFailed: "the signature validation failed",
	} {
		if rest, ok := strings.CutPrefix(message, kind.Error()); ok {
			return kind.Error(), fmt.Sprintf("image pull failed for %s because %s%s", image, text, rest)
		}
	}
	return errImagePull, message
}

// pulled asks for an image that has just been pulled.
func (w *Worker) pulled(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	st, err := w.cfg.Engine.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err == nil && st.Image == nil {
		err = fmt.Errorf("image %q was removed while it was pulled", ref)
	}
	if err != nil {
		return nil, err
	}
	return st.Image, nil
}

// unreachable tells whether a pull failed because no registry answered at all.
func unreachable(err error) bool { return grpcstatus.Code(err) == codes.Unavailable }
