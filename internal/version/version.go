// Package version says which peapod this is and which Kubernetes API it serves.
package version

// Version is the release, stamped at link time with -ldflags "-X peapod.dev/peapod/internal/version.Version=…".
// It is written by the linker only and never changes while the program runs.
var Version = "devel"

// KubernetesVersion is the release of k8s.io/kubernetes whose API types, defaults, validation and registries are linked in.
// A test compares it with go.mod.
const KubernetesVersion = "v1.37.2"
