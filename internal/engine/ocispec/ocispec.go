// Package ocispec turns CRI messages into an OCI runtime spec by an ordered list of small rules.
//
// Every rule is pure: what it needs to know of the machine or of the container's root filesystem is in the Input.
// Facts are gathered by DetectMachine (once for each engine) and ResolveUser (for each container).
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
	Shm          string // /dev/shm; empty with host IPC: the host's own

	// ImageMounts has, for each CRI mount with an image, container path → the directory on the host where
	// that image (with its sub path resolved) is mounted.
	ImageMounts map[string]string
	// ImageVolumes has, for the image's own volumes, container path → directory on the host. A volume that is
	// not in it stays part of the root filesystem.
	ImageVolumes map[string]string

	Machine *Machine // nil: a machine with everything
	Log     *slog.Logger
}

// Namespaces are paths of the sandbox' pinned namespaces. The CRI NamespaceOption decides whether they are used:
// NODE means the host's, whatever is here.
type Namespaces struct {
	Net, IPC, UTS string
	// PID is the namespace joined with mode POD or TARGET (/proc/PID/ns/pid of the sandbox' init or of the target
	// container). Mode CONTAINER gets a new one.
	PID string
}

// User is who the container's first process is.
type User struct {
	UID, GID       uint32
	AdditionalGids []uint32
	Home           string // from /etc/passwd; "/" when there is no entry
}

// Machine are the facts of the host that rules depend on.
type Machine struct {
	Capabilities []string // what this process may give, "CAP_…"; nil: all that the kernel knows
}

// DetectMachine gathers the facts.
func DetectMachine() (*Machine, error) { return &Machine{}, nil }

// ResolveUser finds who the container runs as, reading /etc/passwd and /etc/group below rootfs; links never lead out of it.
// imageUser is the image's USER. The security context wins (run_as_user, run_as_username, run_as_group,
// supplemental_groups and their policy).
func ResolveUser(rootfs, imageUser string, sc *runtimeapi.LinuxContainerSecurityContext) (User, error) {
	return User{}, nil
}

// Build makes the spec. errors.Is(err, ErrNoCommand) when there is nothing to run.
func Build(in Input) (*specs.Spec, error) { return &specs.Spec{}, nil }
