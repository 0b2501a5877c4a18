package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/image"
	"peapod.dev/peapod/internal/engine/ocispec"
	"peapod.dev/peapod/internal/engine/record"
	"peapod.dev/peapod/internal/engine/sandbox"
	"peapod.dev/peapod/internal/fault"
)

func containerName(sandboxID string, m *runtimeapi.ContainerMetadata) string {
	return fmt.Sprintf("%s/%s_%d", sandboxID, m.GetName(), m.GetAttempt())
}

// CreateContainer prepares all that a container needs: root filesystem, OCI spec, log folder. It runs nothing: what the
// OCI runtime has to say against the container is told by StartContainer. On error nothing is left.
func (e *Engine) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	config := req.GetConfig()
	if config.GetMetadata() == nil {
		return nil, grpcstatus.Error(codes.InvalidArgument, "container config must include metadata")
	}
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !s.Ready() {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", s.ID)
	}
	id, name := newID(), containerName(s.ID, config.GetMetadata())
	if err := e.registry.reserve(name, id); err != nil {
		return nil, err
	}
	if err := e.createContainer(ctx, s, id, config); err != nil {
		e.registry.release(name, id)
		return nil, internal(err)
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (e *Engine) createContainer(ctx context.Context, s *sandbox.Sandbox, id string, config *runtimeapi.ContainerConfig) (err error) {
	img, err := e.images.Get(config.GetImage().GetImage())
	if err != nil {
		return imageError(err)
	}
	r := container.Record{
		ID: id, SandboxID: s.ID, Config: kept(config, img), ImageID: img.ID, ImageRef: imageRef(img),
		Handler: s.Handler, LogPath: logPath(s.Config, config), Cgroup: path.Join(s.CgroupParent, id),
		StopSignal: stopSignalName(config, img), CreatedAt: time.Now().UnixNano(),
	}
	if _, err := container.Signal(r.StopSignal); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(e.containers.Bundle(id)), e.deleteFilesystems(id, r.ImageMounts))
		}
	}()
	if r.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(r.LogPath), 0o755); err != nil {
			return fmt.Errorf("cannot create the log folder: %w", err)
		}
	}
	if err := e.images.CreateRootfs(id, img); err != nil {
		return err
	}
	fault.Point("root filesystem created")
	rootfs, err := e.images.MountRootfs(id)
	if err != nil {
		return err
	}
	fault.Point("root filesystem mounted")
	spec, err := e.buildSpec(s, &r, config, img, rootfs)
	if err != nil {
		return err
	}
	if err := writeSpec(e.containers.Bundle(id), spec); err != nil {
		return err
	}
	fault.Point("bundle written")
	c, err := container.Create(e.containers, r, e.runtimeFor(s.Handler))
	if err != nil {
		return err
	}
	e.registry.addContainer(c)
	e.publish(s, id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return nil
}

// buildSpec makes the OCI spec, and notes in the record what it decided.
func (e *Engine) buildSpec(s *sandbox.Sandbox, r *container.Record, config *runtimeapi.ContainerConfig, img *image.Image, rootfs string) (*specs.Spec, error) {
	security := config.GetLinux().GetSecurityContext()
	user, err := ocispec.ResolveUser(rootfs, img.Config.User, security)
	if err != nil {
		return nil, err
	}
	r.User = &runtimeapi.LinuxContainerUser{Uid: int64(user.UID), Gid: int64(user.GID)}
	for _, g := range user.AdditionalGids {
		r.User.SupplementalGroups = append(r.User.SupplementalGroups, int64(g))
	}
	config = proto.CloneOf(config)
	if err := resolveHostPaths(config.GetMounts()); err != nil {
		return nil, err
	}
	in := ocispec.Input{
		ID: r.ID, Container: config, Image: img.Config, Rootfs: rootfs, User: user,
		CgroupsPath: r.Cgroup, CgroupMode: e.cgroups.Mode(), Machine: e.machine, Log: e.log,
	}
	s.Fill(&in)
	options := security.GetNamespaceOptions()
	if options == nil {
		options = s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	}
	switch options.GetPid() {
	case runtimeapi.NamespaceMode_TARGET:
		target, err := e.registry.container(options.GetTargetId())
		if err != nil || target.SandboxID != s.ID {
			return nil, grpcstatus.Errorf(codes.InvalidArgument, "target container %q is not in the sandbox", options.GetTargetId())
		}
		pid := target.Status().PID
		if pid == 0 {
			return nil, grpcstatus.Errorf(codes.FailedPrecondition, "target container %q is not running", target.ID)
		}
		in.Namespaces.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
		r.SharesPID = true
	case runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE:
		r.SharesPID = true
	}
	if in.ImageMounts, err = e.mountImages(r, config.GetMounts()); err != nil {
		return nil, err
	}
	return ocispec.Build(in)
}

// resolveHostPaths follows links and makes missing folders, as every other engine does.
func resolveHostPaths(mounts []*runtimeapi.Mount) error {
	for _, m := range mounts {
		if m.GetImage() != nil || m.GetHostPath() == "" {
			continue
		}
		resolved, err := filepath.EvalSymlinks(m.GetHostPath())
		if errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(m.GetHostPath(), 0o755); err == nil {
				resolved, err = filepath.EvalSymlinks(m.GetHostPath())
			}
		}
		if err != nil {
			return fmt.Errorf("cannot use host path %q: %w", m.GetHostPath(), err)
		}
		m.HostPath = resolved
	}
	return nil
}

// mountImages mounts the images that are volumes, by their paths in the container.
func (e *Engine) mountImages(r *container.Record, mounts []*runtimeapi.Mount) (map[string]string, error) {
	paths := map[string]string{}
	for i, m := range mounts {
		if m.GetImage() == nil {
			continue
		}
		img, err := e.images.Get(m.GetImage().GetImage())
		if err != nil {
			return nil, imageError(err)
		}
		id := fmt.Sprintf("%s-image-%d", r.ID, i)
		r.ImageMounts = append(r.ImageMounts, id)
		root, err := e.images.MountImage(id, img)
		if err != nil {
			return nil, err
		}
		if paths[m.GetContainerPath()], err = subPath(root, m.GetImageSubPath()); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// subPath finds path below root; links never lead out of root.
func subPath(root, path string) (string, error) {
	if path == "" {
		return root, nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", fmt.Errorf("cannot use sub path %q of the image: %w", path, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func writeSpec(bundle string, spec *specs.Spec) error {
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return record.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)
}

// kept is the part of a container's configuration that its status tells.
func kept(c *runtimeapi.ContainerConfig, img *image.Image) *runtimeapi.ContainerConfig {
	k := proto.CloneOf(&runtimeapi.ContainerConfig{
		Metadata: c.Metadata, Image: c.Image, Labels: c.Labels, Annotations: c.Annotations, Mounts: c.Mounts,
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.Tty, Linux: c.Linux,
	})
	if len(img.RepoTags) > 0 {
		k.Image.Image = img.RepoTags[0]
	}
	return k
}

// imageRef is what status shows as the image's ID: by digest if it came from a registry.
func imageRef(img *image.Image) string {
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return img.ID
}

func logPath(s *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	if s.GetLogDirectory() == "" || c.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(s.GetLogDirectory(), c.GetLogPath())
}

func stopSignalName(c *runtimeapi.ContainerConfig, img *image.Image) string {
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return s.String()
	}
	if img.Config.StopSignal != "" {
		return img.Config.StopSignal
	}
	return "SIGTERM"
}
