//go:build tools

package tools

import (
	_ "github.com/google/nftables"
	_ "github.com/spf13/cobra"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
	_ "github.com/containernetworking/cni/libcni"
	_ "github.com/opencontainers/runtime-spec/specs-go"
	_ "github.com/google/go-containerregistry/pkg/registry"
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "go.etcd.io/etcd/server/v3/embed"
	_ "go.podman.io/image/v5/copy"
	_ "go.podman.io/storage"
	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
	_ "k8s.io/cri-streaming/pkg/streaming"
	_ "k8s.io/kubectl/pkg/cmd"
	_ "k8s.io/kubernetes/pkg/controlplane"
	_ "golang.org/x/sync/errgroup"
)
