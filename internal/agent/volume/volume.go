// Package volume prepares what containers mount: volumes of every supported source, subPaths, the hosts file and the
// file for the termination message.
//
// Everything of a Pod lies below Root/UID in the kubelet's layout:
//
//	volumes/kubernetes.io~KIND/NAME    a volume
//	plugins/kubernetes.io~empty-dir/…  marks of volumes that are complete
//	volume-subpaths/VOLUME/CONTAINER/N bind mounts of subPaths
//	containers/CONTAINER/ATTEMPT       termination messages
//	etc-hosts                          the hosts file
//
// Invariants: all operations are idempotent, also after the process was killed at any instant; contents change
// atomically; nothing below Root leads out of it except through mounts, and Teardown removes files only after no mount
// is left. A Pod has one owner, who calls one method for it at a time; different Pods are independent.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/objects"
)

// syncTimeout is how long Setup waits for an object's first answer before it says so (the kubelet waits as long).
const syncTimeout = time.Second

// Config is what Volumes need.
type Config struct {
	Root    string                   // DATA/pods
	Client  kubernetes.Interface     // as the node's identity; its rate limit must not be in the way
	GetNode func() (*v1.Node, error) // this node, for its allocatable resources
	// Changed is told that an object or token of the Pod has changed, so that its owner calls Setup or Update and looks
	// at its environment again. It must not block. May be nil.
	Changed func(pod types.UID)
	Log     *slog.Logger
}

// Volumes are the volumes of this node's Pods.
type Volumes struct {
	config  Config
	objects *objects.Cache
	// swapsTmpfs: the kernel (before Linux 6.4) has refused tmpfs's option noswap, and logs every further try.
	swapsTmpfs atomic.Bool
}

// Volume is a volume that is ready to be mounted.
type Volume struct {
	HostPath       string
	ReadOnly       bool // mounted read-only whatever the container asks for
	SELinuxRelabel bool // peapod's own files, which may be relabelled
	// Image is set for an image volume, which the engine mounts itself. The caller pulls it by PullPolicy first and may
	// replace Image.Image by the pulled image's ID.
	Image      *runtimeapi.ImageSpec
	PullPolicy v1.PullPolicy
}

// SetupError is why a volume cannot be set up, in the words of the kubelet's FailedMount event.
type SetupError struct {
	Volume string
	Err    error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// New returns the volumes below config.Root, which it creates if need be. Close ends its watches; volumes stay.
func New(config Config) (*Volumes, error) {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if err := os.MkdirAll(config.Root, 0o750); err != nil {
		return nil, fmt.Errorf("cannot create pods folder: %w", err)
	}
	// The kernel's list of mounts has no symbolic links in it.
	root, err := filepath.EvalSymlinks(config.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve pods folder: %w", err)
	}
	if config.Root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("cannot resolve pods folder: %w", err)
	}
	changed := func(pods []types.UID) {
		for _, pod := range pods {
			if config.Changed != nil {
				config.Changed(pod)
			}
		}
	}
	return &Volumes{
		config:  config,
		objects: objects.New(objects.Config{Client: config.Client, Changed: changed, Log: config.Log}),
	}, nil
}

// Close ends all watches and waits for them.
func (v *Volumes) Close() { v.objects.Close() }

// Prefetch starts to fetch what Setup will need, without waiting. Call it as soon as the Pod is known.
func (v *Volumes) Prefetch(pod *v1.Pod) {
	v.objects.Register(pod)
	v.objects.Prefetch(pod)
}

// GetConfigMap returns a ConfigMap that a prefetched Pod refers to. See objects.Cache.ConfigMap.
func (v *Volumes) GetConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return v.objects.ConfigMap(ctx, namespace, name)
}

// GetSecret returns a Secret that a prefetched Pod refers to, also one to pull images with.
func (v *Volumes) GetSecret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return v.objects.Secret(ctx, namespace, name)
}

// Setup makes all volumes of pod ready and returns them by name. It attempts each; the error joins a *SetupError for
// each that failed.
func (v *Volumes) Setup(ctx context.Context, pod *v1.Pod) (map[string]Volume, error) {
	v.Prefetch(pod)
	volumes := make(map[string]Volume, len(pod.Spec.Volumes))
	var failures []error
	for i := range pod.Spec.Volumes {
		spec := &pod.Spec.Volumes[i]
		volume, err := v.setup(ctx, pod, spec)
		if err != nil {
			failures = append(failures, &SetupError{Volume: spec.Name, Err: err})
			continue
		}
		volumes[spec.Name] = volume
	}
	return volumes, errors.Join(failures...)
}

// Update writes the current contents of those volumes that show objects, tokens or the Pod itself; a running container
// sees them at once. A volume whose content cannot be had keeps what it has; the error is as for Setup.
func (v *Volumes) Update(ctx context.Context, pod *v1.Pod) error {
	v.Prefetch(pod)
	var failures []error
	for i := range pod.Spec.Volumes {
		spec := &pod.Spec.Volumes[i]
		if !showsContent(spec) {
			continue
		}
		if _, err := v.setup(ctx, pod, spec); err != nil {
			failures = append(failures, &SetupError{Volume: spec.Name, Err: err})
		}
	}
	return errors.Join(failures...)
}

func (v *Volumes) setup(ctx context.Context, pod *v1.Pod, spec *v1.Volume) (Volume, error) {
	switch {
	case spec.HostPath != nil:
		return v.hostPath(spec.HostPath)
	case spec.EmptyDir != nil:
		return v.emptyDir(pod, spec)
	case spec.Image != nil:
		return v.image(spec.Image), nil
	case showsContent(spec):
		content, err := v.content(ctx, pod, spec)
		if err != nil {
			return Volume{}, err
		}
		return v.writeContent(pod, spec, content)
	case spec.PersistentVolumeClaim != nil:
		return Volume{}, errors.New("unsupported volume source: persistentVolumeClaim")
	case spec.Ephemeral != nil:
		return Volume{}, errors.New("unsupported volume source: ephemeral")
	case spec.CSI != nil:
		return Volume{}, errors.New("unsupported volume source: csi")
	}
	return Volume{}, errors.New("unsupported volume source")
}

func (v *Volumes) podDir(pod types.UID) string {
	return filepath.Join(v.config.Root, string(pod))
}

// volumeDir is where a volume lies; kind is the second half of the name of upstream's plugin.
func (v *Volumes) volumeDir(pod types.UID, kind, name string) string {
	return filepath.Join(v.podDir(pod), "volumes", "kubernetes.io~"+kind, name)
}

func (v *Volumes) allocatable() (v1.ResourceList, error) {
	node, err := v.config.GetNode()
	if err != nil {
		return nil, fmt.Errorf("cannot get this node's allocatable resources: %w", err)
	}
	return node.Status.Allocatable, nil
}
