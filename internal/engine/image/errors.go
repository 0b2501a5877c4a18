package image

import (
	"errors"
	"net"
	"net/http"

	"github.com/docker/distribution/registry/api/errcode"
	v2 "github.com/docker/distribution/registry/api/v2"
	"go.podman.io/image/v5/docker"
)

var (
	// ErrNotFound says that the store has no such image.
	ErrNotFound = errors.New("image not found")
	// ErrInvalidReference says that a name cannot be that of an image; the kubelet's InvalidImageName.
	ErrInvalidReference = errors.New("invalid image reference")
	// ErrInUse says that a container, of whatever owner, still needs the image.
	ErrInUse = errors.New("image is in use by a container")
	// ErrManifestUnknown says that the registry answered and has no such image.
	ErrManifestUnknown = errors.New("image is not in the registry")
	// ErrUnauthorized says that the registry refused the credentials, or the lack of them.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrRegistryUnavailable says that no registry could be asked, or that it failed or asked to be left alone.
	ErrRegistryUnavailable = errors.New("registry unavailable")
	// ErrBadArchive says that a file is no archive of images, or a damaged one.
	ErrBadArchive = errors.New("not a usable image archive")
)

// classified gives err a class for errors.Is and leaves its text, which is the registry's, as it is.
type classified struct{ class, err error }

func (c *classified) Error() string   { return c.err.Error() }
func (c *classified) Unwrap() []error { return []error{c.class, c.err} }

// classify adds the class of an error that a pull met, if it has one.
func classify(err error) error {
	if class := pullErrorClass(err); class != nil {
		return &classified{class, err}
	}
	return err
}

func pullErrorClass(err error) error {
	if _, ok := errors.AsType[docker.ErrUnauthorizedForCredentials](err); ok {
		return ErrUnauthorized
	}
	var answer errcode.ErrorCoder // no error itself, so not for AsType
	if errors.As(err, &answer) {
		switch answer.ErrorCode() {
		case v2.ErrorCodeManifestUnknown, v2.ErrorCodeNameUnknown:
			return ErrManifestUnknown
		case errcode.ErrorCodeUnauthorized, errcode.ErrorCodeDenied:
			return ErrUnauthorized
		case errcode.ErrorCodeUnavailable, errcode.ErrorCodeTooManyRequests:
			return ErrRegistryUnavailable
		}
	}
	if answer, ok := errors.AsType[docker.UnexpectedHTTPStatusError](err); ok {
		switch {
		case answer.StatusCode == http.StatusNotFound:
			return ErrManifestUnknown
		case answer.StatusCode == http.StatusForbidden:
			return ErrUnauthorized
		case answer.StatusCode >= http.StatusInternalServerError:
			return ErrRegistryUnavailable
		}
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, docker.ErrTooManyRequests) {
		return ErrRegistryUnavailable
	}
	return nil
}
