// Package ocispec turns CRI messages into an OCI runtime spec by an ordered list of small rules, a file each.
//
// A rule reads only its Input, so the same Input gives the same spec. Facts of the host are gathered by DetectMachine
// (once for each engine), those of the root filesystem by ResolveUser (for each container). Two things are read while
// building because they may change at any time: a Localhost seccomp profile, and the host's device nodes (Machine.Devices).
package ocispec

import (
	"errors"
	"log/slog"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
)

// ErrNoCommand is returned by Build when neither the container nor its image names a command.
// The text is what kubectl shows for it under every other engine.
var ErrNoCommand = errors.New("no command specified")

// Input is all that a spec is made from.
type Input struct {
	ID        string // container ID
	SandboxID string
	Container *runtimeapi.ContainerConfig
	Sandbox   *runtimeapi.PodSandboxConfig
	Image     imgspecv1.ImageConfig
	Rootfs    string // mounted root filesystem, absolute
	User      User   // from ResolveUser

	Namespaces  Namespaces
	CgroupsPath string // cgroupfs path of the container's own group, "/parent/pod/container"
	CgroupMode  cgroup.Mode
	Hostname    string // what the sandbox' UTS namespace is called; the HOSTNAME variable

	// Files of the sandbox on the host; empty: not mounted.
	ResolvConf   string // /etc/resolv.conf
	HostnameFile string // /etc/hostname
	Shm          string // /dev/shm; with host IPC it is the host's own and this is not used

	// ImageMounts has, for each CRI mount with an image, container path → the directory on the host where
	// that image (with its sub path resolved) is mounted.
	ImageMounts map[string]string
	// ImageVolumes has, for the image's own volumes, container path → directory on the host. A volume that is
	// not in it stays part of the root filesystem.
	ImageVolumes map[string]string

	Machine *Machine // nil: one that has everything
	Log     *slog.Logger
}

// Namespaces are paths of the sandbox' pinned namespaces. The CRI NamespaceOption decides whether they are used:
// NODE means the host's, whatever is here.
type Namespaces struct {
	Net, IPC string
	UTS      string // empty: the host's, as with a host network
	// PID is the namespace joined with mode POD or TARGET (/proc/PID/ns/pid of the sandbox' init or of the target
	// container). Mode CONTAINER gets a new one.
	PID string
}

// rule fills in one part of the spec.
type rule func(spec *specs.Spec, in *Input) error

// rules in the order in which they are applied: seccomp reads the capabilities, the rest are independent.
func rules() []rule {
	return []rule{
		process, environment, capabilities, root, namespaces, mounts, maskedPaths, devices, resources, oomScore,
		sysctls, appArmor, seccompFilter, annotations,
	}
}

// Build makes the spec. errors.Is(err, ErrNoCommand) when there is nothing to run. Other errors are the texts that
// the user reads in the event of a failed CreateContainer.
func Build(in Input) (*specs.Spec, error) {
	if in.Machine == nil {
		in.Machine = everything()
	}
	if in.Log == nil {
		in.Log = slog.Default()
	}
	in.Log = in.Log.With("container", in.Container.GetMetadata().GetName(), "id", in.ID)
	spec := &specs.Spec{
		Version: "1.0.2", // the newest that crun 1.8 and runc 1.1 both take; nothing here needs more
		Process: &specs.Process{},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
	}
	for _, apply := range rules() {
		if err := apply(spec, &in); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

func (in *Input) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.GetLinux().GetSecurityContext()
}

func (in *Input) privileged() bool { return in.security().GetPrivileged() }

// namespaceOption is the container's, else that of its sandbox.
func (in *Input) namespaceOption() *runtimeapi.NamespaceOption {
	if o := in.security().GetNamespaceOptions(); o != nil {
		return o
	}
	return in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
}
