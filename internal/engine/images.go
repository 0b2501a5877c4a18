package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.podman.io/image/v5/types"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/image"
)

// imageError gives err the status code of its class, with its text as it is.
func imageError(err error) error {
	code := codes.Unknown
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrNotFound), errors.Is(err, image.ErrManifestUnknown):
		code = codes.NotFound
	case errors.Is(err, image.ErrInvalidReference):
		code = codes.InvalidArgument
	case errors.Is(err, image.ErrUnauthorized):
		code = codes.PermissionDenied
	case errors.Is(err, image.ErrRegistryUnavailable):
		code = codes.Unavailable
	case errors.Is(err, image.ErrInUse):
		code = codes.FailedPrecondition
	default:
		return internal(err)
	}
	return grpcstatus.Error(code, err.Error())
}

// ListImages lists all images, or the one that the filter names.
func (e *Engine) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	resp := &runtimeapi.ListImagesResponse{}
	if ref := req.GetFilter().GetImage().GetImage(); ref != "" {
		img, err := e.images.Get(ref)
		if errors.Is(err, image.ErrNotFound) {
			return resp, nil
		}
		if err != nil {
			return nil, imageError(err)
		}
		resp.Images = append(resp.Images, criImage(img))
		return resp, nil
	}
	all, err := e.images.List()
	if err != nil {
		return nil, imageError(err)
	}
	for _, img := range all {
		resp.Images = append(resp.Images, criImage(img))
	}
	return resp, nil
}

// ImageStatus tells of one image; an answer without image: it is not there.
func (e *Engine) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	img, err := e.images.Get(req.GetImage().GetImage())
	if errors.Is(err, image.ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, imageError(err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: criImage(img)}
	if req.GetVerbose() {
		resp.Info = info(map[string]any{"imageSpec": map[string]any{"config": img.Config}})
	}
	return resp, nil
}

// PullImage gets an image from its registry and returns its ID.
func (e *Engine) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	options := image.PullOptions{}
	if a := req.GetAuth(); a != nil {
		options.Auth = &types.DockerAuthConfig{Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken()}
		if a.GetUsername() == "" && a.GetAuth() != "" {
			if err := decodeAuth(a.GetAuth(), options.Auth); err != nil {
				return nil, grpcstatus.Error(codes.InvalidArgument, err.Error())
			}
		}
	}
	img, err := e.images.Pull(ctx, req.GetImage().GetImage(), options)
	if err != nil {
		return nil, imageError(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: img.ID}, nil
}

// RemoveImage removes an image with all its names. Idempotent.
func (e *Engine) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	err := e.images.Remove(req.GetImage().GetImage())
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, imageError(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells how much of the disk images use. Root filesystems are on the same one.
func (e *Engine) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	fs, err := e.images.FsInfo()
	if err != nil {
		return nil, internal(err)
	}
	usage := &runtimeapi.FilesystemUsage{
		Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: fs.Mountpoint},
		UsedBytes: &runtimeapi.UInt64Value{Value: fs.ImageBytes}, InodesUsed: &runtimeapi.UInt64Value{Value: fs.InodesUsed},
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems: []*runtimeapi.FilesystemUsage{usage}, ContainerFilesystems: []*runtimeapi.FilesystemUsage{usage},
	}, nil
}

func criImage(img *image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size),
		Spec: &runtimeapi.ImageSpec{Image: img.ID}, Pinned: img.Pinned,
	}
	user, _, _ := strings.Cut(img.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else if user != "" {
		out.Username = user
	} else {
		out.Uid = &runtimeapi.Int64Value{}
	}
	return out
}

// decodeAuth reads the field auth of a registry's credentials: base64 of user:password.
func decodeAuth(encoded string, to *types.DockerAuthConfig) error {
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("cannot decode registry credentials: %w", err)
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(data), "\x00"), ":")
	if !ok {
		return errors.New("cannot decode registry credentials: no user name")
	}
	to.Username, to.Password = user, password
	return nil
}
