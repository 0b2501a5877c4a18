package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cni leaves the work to the plugins of one network configuration: the first in its folder by file name, as every CRI
// engine chooses. libcni remembers in its cache what each ADD was given, for the DEL.
type cni struct {
	config *libcni.CNIConfig
	list   *libcni.NetworkConfigList
	cache  string
}

// loadCNI is nil without configuration.
func loadCNI(c Config) (*cni, error) {
	files, err := libcni.ConfFiles(c.CNIConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read CNI configurations: %w", err)
	}
	slices.Sort(files)
	for _, file := range files {
		list, err := readCNI(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read CNI configuration %s: %w", file, err)
		}
		// Debian's podman brings one for its own containers; it says nothing about what Pods shall use.
		if list.Name == "podman" {
			continue
		}
		cache := filepath.Join(c.StateDir, "cni")
		return &cni{libcni.NewCNIConfigWithCacheDir(c.CNIBinDirs, cache, nil), list, cache}, nil
	}
	return nil, nil
}

func readCNI(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		return libcni.NetworkConfFromFile(file)
	}
	one, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(one)
}

func (c *cni) setup(ctx context.Context, p Pod) (Result, error) {
	if err := bringLoopbackUp(p.NetNS); err != nil {
		return Result{}, err
	}
	got, err := c.config.AddNetworkList(ctx, c.list, &libcni.RuntimeConf{
		ContainerID: p.SandboxID, NetNS: p.NetNS, IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.SandboxID}, {"K8S_POD_UID", p.UID},
		},
		CapabilityArgs: portMappings(p.Ports),
	})
	if err != nil {
		return Result{}, err
	}
	result, err := types100.NewResultFromResult(got)
	if err != nil {
		return Result{}, err
	}
	var r Result
	for _, ip := range result.IPs {
		if ip.Interface != nil && *ip.Interface < len(result.Interfaces) && result.Interfaces[*ip.Interface].Sandbox == "" {
			continue // of a link on the node
		}
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			r.IPs = append(r.IPs, addr.Unmap())
		}
	}
	if len(r.IPs) == 0 {
		return Result{}, fmt.Errorf("CNI network %s gave no address", c.list.Name)
	}
	return r, nil
}

// portMappings are passed to the plugins that declare the capability.
func portMappings(ports []PortMapping) map[string]any {
	if len(ports) == 0 {
		return nil
	}
	var all []map[string]any
	for _, p := range ports {
		protocol := strings.ToLower(p.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		all = append(all, map[string]any{
			"hostPort": p.HostPort, "containerPort": p.ContainerPort, "protocol": protocol, "hostIP": p.HostIP,
		})
	}
	return map[string]any{"portMappings": all}
}

func bringLoopbackUp(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	in, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer in.Close()
	return loopbackUp(in)
}

func (c *cni) connected(string) bool { return true }

// teardown replays the ADD's arguments, also where the configuration has changed since or is gone.
func (c *cni) teardown(ctx context.Context, id, path string) error {
	attachments, err := c.config.GetCachedAttachments(id)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		path = "" // tells the plugins that the namespace is gone
	}
	var errs []error
	for _, a := range attachments {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.config.DelNetworkList(ctx, list, &libcni.RuntimeConf{
			ContainerID: id, NetNS: path, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs,
		}))
	}
	return errors.Join(errs...)
}

func (c *cni) reconcile(ctx context.Context, live map[string]bool) error {
	attachments, err := c.config.GetCachedAttachments("")
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range attachments {
		if !live[a.ContainerID] {
			errs = append(errs, c.teardown(ctx, a.ContainerID, a.NetNS))
		}
	}
	return errors.Join(errs...)
}

func (c *cni) destroy(ctx context.Context) error {
	if err := c.reconcile(ctx, nil); err != nil {
		return err
	}
	return os.RemoveAll(c.cache)
}
