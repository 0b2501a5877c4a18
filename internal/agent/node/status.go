package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/version"
)

const (
	maxImages        = 50 // listed in the status, the largest first
	maxNamesPerImage = 5

	// The kubelet's default eviction thresholds; what they keep free cannot be allocated.
	minMemory       = 100 << 20 // bytes
	minDiskPercent  = 10
	minInodePercent = 5
	// pressureHold is how long a pressure is reported after it was last seen, lest it flap.
	pressureHold = 5 * time.Minute
)

// fill writes into node all of the status that is this machine's to say.
func (n *Node) fill(ctx context.Context, node *v1.Node) {
	s := &node.Status
	s.Addresses = []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: n.cfg.IP.String()},
		{Type: v1.NodeHostName, Address: n.cfg.Hostname},
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = n.cfg.Port
	s.NodeInfo = v1.NodeSystemInfo{
		MachineID: n.machine.machineID, SystemUUID: n.machine.systemUUID, BootID: n.machine.bootID,
		KernelVersion: n.machine.kernel, OSImage: n.machine.osImage,
		OperatingSystem: n.machine.os, Architecture: n.machine.arch,
		ContainerRuntimeVersion: n.runtimeVersion(ctx), KubeletVersion: version.KubernetesVersion,
	}
	if swap := n.machine.swap; swap > 0 {
		s.NodeInfo.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	if n.images != nil {
		s.Images = n.images
	}
	s.DeclaredFeatures = n.cfg.DeclaredFeatures
	disk, diskErr := statDisk(n.cfg.DataDir)
	n.fillResources(s, disk)
	problems := append(n.fillRuntime(ctx, s), diskErr)

	// The order is upstream's; Ready comes last.
	memory, memErr := memoryAvailable(n.cfg.Root)
	if memErr != nil {
		n.log.Warn("Cannot read how much memory is available", "error", memErr)
	}
	n.setPressure(s, v1.NodeMemoryPressure, memErr == nil && memory < minMemory,
		reasonOf{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "NodeHasInsufficientMemory"},
		reasonOf{"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory"})
	n.setPressure(s, v1.NodeDiskPressure, diskErr == nil && disk.short(),
		reasonOf{"KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"},
		reasonOf{"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"})
	// Upstream sets no threshold for process ids by default, so there is never too little of them.
	n.setPressure(s, v1.NodePIDPressure, false,
		reasonOf{"KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"},
		reasonOf{"KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"})
	n.setReady(s, problems)
}

// fillResources leaves alone what it does not know: resources that devices or people advertise.
func (n *Node) fillResources(s *v1.NodeStatus, disk disk) {
	if s.Capacity == nil {
		s.Capacity = v1.ResourceList{}
	}
	if s.Allocatable == nil {
		s.Allocatable = v1.ResourceList{}
	}
	set := func(name v1.ResourceName, capacity, allocatable int64, format resource.Format) {
		s.Capacity[name] = *resource.NewQuantity(capacity, format)
		s.Allocatable[name] = *resource.NewQuantity(max(0, allocatable), format)
	}
	memory := n.machine.memory - minMemory
	for size, bytes := range n.machine.hugepages {
		set(v1.ResourceName(v1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String()), bytes, bytes, resource.BinarySI)
		memory -= bytes // it cannot be used as anything else
	}
	set(v1.ResourceCPU, n.machine.cpus, n.machine.cpus, resource.DecimalSI)
	set(v1.ResourceMemory, n.machine.memory, memory, resource.BinarySI)
	set(v1.ResourcePods, n.cfg.MaxPods, n.cfg.MaxPods, resource.DecimalSI)
	if disk.size > 0 {
		set(v1.ResourceEphemeralStorage, disk.size, disk.size-disk.size/100*minDiskPercent, resource.BinarySI)
	}
}

func (n *Node) runtimeVersion(ctx context.Context) string {
	v, err := n.cfg.Engine.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return "Unknown"
	}
	return v.RuntimeName + "://" + v.RuntimeVersion
}

// fillRuntime copies what the runtime can do and returns why it is not ready, if it is not.
func (n *Node) fillRuntime(ctx context.Context, s *v1.NodeStatus) []error {
	resp, err := n.cfg.Engine.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil || resp.Status == nil {
		n.log.Warn("Cannot get the container runtime's status", "error", err)
		return []error{errors.New("container runtime is down")}
	}
	s.RuntimeHandlers = nil
	for _, h := range resp.RuntimeHandlers {
		s.RuntimeHandlers = append(s.RuntimeHandlers, v1.NodeRuntimeHandler{Name: h.Name, Features: &v1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(h.Features.GetRecursiveReadOnlyMounts()),
			UserNamespaces:          new(h.Features.GetUserNamespaces()),
		}})
	}
	if resp.Features != nil {
		s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: new(resp.Features.SupplementalGroupsPolicy)}
	}
	var problems []error
	for _, part := range []struct{ condition, text string }{
		{runtimeapi.RuntimeReady, "container runtime not ready"},
		{runtimeapi.NetworkReady, "container runtime network not ready"},
	} {
		i := slices.IndexFunc(resp.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool { return c.Type == part.condition })
		if i < 0 {
			problems = append(problems, fmt.Errorf("%s: <nil>", part.text))
		} else if c := resp.Status.Conditions[i]; !c.Status {
			problems = append(problems, fmt.Errorf("%s: %s=%t reason:%s message:%s", part.text, c.Type, c.Status, c.Reason, c.Message))
		}
	}
	return problems
}

// reasonOf is how a state of a condition is told: in the condition, and as an event.
type reasonOf struct{ reason, message, event string }

func (n *Node) setPressure(s *v1.NodeStatus, kind v1.NodeConditionType, under bool, yes, no reasonOf) {
	now := time.Now()
	if under {
		n.underSince[kind] = now
	}
	since, seen := n.underSince[kind]
	if under || seen && now.Sub(since) < pressureHold {
		n.setCondition(s, kind, v1.ConditionTrue, yes)
	} else {
		n.setCondition(s, kind, v1.ConditionFalse, no)
	}
}

func (n *Node) setReady(s *v1.NodeStatus, problems []error) {
	if err := utilerrors.NewAggregate(problems); err != nil {
		n.setCondition(s, v1.NodeReady, v1.ConditionFalse, reasonOf{"KubeletNotReady", err.Error(), "NodeNotReady"})
		return
	}
	n.setCondition(s, v1.NodeReady, v1.ConditionTrue, reasonOf{"KubeletReady", "kubelet is posting ready status", "NodeReady"})
}

// setCondition keeps the time of the last transition unless this is one, and tells about those.
func (n *Node) setCondition(s *v1.NodeStatus, kind v1.NodeConditionType, status v1.ConditionStatus, why reasonOf) {
	now := metav1.Now()
	c := v1.NodeCondition{Type: kind, Status: status, Reason: why.reason, Message: why.message, LastHeartbeatTime: now, LastTransitionTime: now}
	i := slices.IndexFunc(s.Conditions, func(c v1.NodeCondition) bool { return c.Type == kind })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		n.statusEvent(why.event)
		return
	}
	if s.Conditions[i].Status == status {
		c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	} else {
		n.statusEvent(why.event)
	}
	s.Conditions[i] = c
}

// refreshImages reads the list of images anew; on an error the old one stays.
func (n *Node) refreshImages(ctx context.Context) {
	resp, err := n.cfg.Engine.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		n.log.Warn("Cannot list the images", "error", err)
		return
	}
	all := slices.SortedStableFunc(slices.Values(resp.Images), func(a, b *runtimeapi.Image) int {
		switch {
		case a.Size > b.Size:
			return -1
		case a.Size < b.Size:
			return 1
		}
		return 0
	})
	images := []v1.ContainerImage{}
	for _, image := range all[:min(len(all), maxImages)] {
		names := slices.Concat(image.RepoDigests, image.RepoTags)
		images = append(images, v1.ContainerImage{Names: names[:min(len(names), maxNamesPerImage)], SizeBytes: int64(image.Size)})
	}
	n.images = images
}

// changed reports a difference other than the heartbeats.
func changed(old, next *v1.Node) bool {
	a, b := old.Status.DeepCopy(), next.Status.DeepCopy()
	for _, s := range []*v1.NodeStatus{a, b} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return !equality.Semantic.DeepEqual(a, b) || !equality.Semantic.DeepEqual(old.Labels, next.Labels)
}

// patch sends what differs between old and next in status and labels.
func (n *Node) patch(ctx context.Context, old, next *v1.Node) error {
	// The API merges addresses by type, which cannot express that one of two of a type has gone. So
	// they are replaced as a whole (see the comment on NodeStatus.Addresses upstream).
	addresses := next.Status.Addresses
	next = next.DeepCopy()
	next.Status.Addresses = old.Status.Addresses
	before, err := json.Marshal(old)
	if err != nil {
		return err
	}
	after, err := json.Marshal(next)
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(old.Status.Addresses, addresses) {
		var tree map[string]any
		if err := json.Unmarshal(patch, &tree); err != nil {
			return err
		}
		status, _ := tree["status"].(map[string]any)
		if status == nil {
			status = map[string]any{}
		}
		list := []any{map[string]any{"$patch": "replace"}}
		for _, a := range addresses {
			list = append(list, map[string]any{"type": a.Type, "address": a.Address})
		}
		status["addresses"], tree["status"] = list, status
		if patch, err = json.Marshal(tree); err != nil {
			return err
		}
	}
	patched, err := n.cfg.Client.CoreV1().Nodes().Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("cannot patch node %q: %w", n.cfg.Name, err)
	}
	n.last, n.reported = patched, time.Now()
	return nil
}
