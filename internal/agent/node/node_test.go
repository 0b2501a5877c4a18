package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/version"
)

// engine is a container runtime of which only the status matters.
type engine struct {
	mu      sync.Mutex
	network bool
	images  []*runtimeapi.Image
}

func (e *engine) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "peapod", RuntimeVersion: "0.1.0"}, nil
}

func (e *engine) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: e.network}
	if !e.network {
		network.Reason, network.Message = "NoBridge", "no bridge"
	}
	return &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "crun", Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}, nil
}

func (e *engine) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &runtimeapi.ListImagesResponse{Images: e.images}, nil
}

func (e *engine) setNetwork(ready bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.network = ready
}

// root makes a tree with the files that tell about a machine.
func root(t *testing.T, memAvailableKB int64) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"proc/meminfo":                   fmt.Sprintf("MemTotal: 4194304 kB\nMemAvailable: %d kB\nSwapTotal: 1024 kB\nHugePages_Total: 2\n", memAvailableKB),
		"proc/sys/kernel/osrelease":      "6.1.0-test\n",
		"proc/sys/kernel/random/boot_id": "boot-1\n",
		"etc/machine-id":                 "machine-1\n",
		"sys/class/dmi/id/product_uuid":  "uuid-1\n",
		"etc/os-release":                 "NAME=x\nPRETTY_NAME=\"Test Linux 1\"\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "2\n",
		"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newNode(t *testing.T, client *fake.Clientset, eng *engine, change func(*Config)) (*Node, *record.FakeRecorder) {
	t.Helper()
	events := record.NewFakeRecorder(100)
	cfg := Config{Name: "n1", IP: net.IPv4(10, 1, 2, 3), Port: 10250, Labels: map[string]string{"disk": "ssd"}, PodCIDR: "10.88.0.0/24",
		DataDir: t.TempDir(), Engine: eng, Client: client, Recorder: events, Root: root(t, 2<<20)}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n, events
}

func conditionOf(t *testing.T, node *v1.Node, kind v1.NodeConditionType) v1.NodeCondition {
	t.Helper()
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("node %s has no condition %s", node.Name, kind)
	return v1.NodeCondition{}
}

func get(t *testing.T, client *fake.Clientset) *v1.Node {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func drain(events *record.FakeRecorder) string {
	var all []string
	for len(events.Events) > 0 {
		all = append(all, <-events.Events)
	}
	return strings.Join(all, "\n")
}

func TestRegisterIsOneRequest(t *testing.T) {
	client := fake.NewClientset()
	n, events := newNode(t, client, &engine{network: true}, nil)
	node, err := n.Register(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if actions := client.Actions(); len(actions) != 1 {
		t.Errorf("%d requests: %v", len(actions), actions)
	}
	for label, want := range map[string]string{v1.LabelHostname: "n1", v1.LabelOSStable: "linux", v1.LabelArchStable: n.machine.arch, "disk": "ssd"} {
		if node.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, node.Labels[label], want)
		}
	}
	if node.Spec.PodCIDR != "10.88.0.0/24" || len(node.Spec.PodCIDRs) != 1 {
		t.Errorf("pod CIDR %q %v", node.Spec.PodCIDR, node.Spec.PodCIDRs)
	}
	if c := conditionOf(t, node, v1.NodeReady); c.Status != v1.ConditionTrue || c.Reason != "KubeletReady" || c.Message != "kubelet is posting ready status" {
		t.Errorf("Ready: %+v", c)
	}
	if c := conditionOf(t, node, v1.NodeMemoryPressure); c.Status != v1.ConditionFalse || c.Reason != "KubeletHasSufficientMemory" {
		t.Errorf("MemoryPressure: %+v", c)
	}
	if last := node.Status.Conditions[len(node.Status.Conditions)-1].Type; last != v1.NodeReady {
		t.Errorf("the last condition is %s", last)
	}
	for name, want := range map[v1.ResourceName]string{"memory": "4Gi", "pods": "110", "hugepages-2Mi": "4Mi", "hugepages-1Gi": "0"} {
		if got := node.Status.Capacity[name]; got.String() != want {
			t.Errorf("capacity of %s is %s, want %s", name, &got, want)
		}
	}
	if got := node.Status.Allocatable[v1.ResourceMemory]; got.Value() != 4<<30-100<<20-4<<20 {
		t.Errorf("allocatable memory is %s", &got)
	}
	if got := node.Status.Capacity[v1.ResourceEphemeralStorage]; got.Value() <= 0 {
		t.Errorf("ephemeral storage is %s", &got)
	}
	info := node.Status.NodeInfo
	if info.MachineID != "machine-1" || info.SystemUUID != "uuid-1" || info.BootID != "boot-1" || info.KernelVersion != "6.1.0-test" ||
		info.OSImage != "Test Linux 1" || info.ContainerRuntimeVersion != "peapod://0.1.0" || info.KubeletVersion != version.KubernetesVersion {
		t.Errorf("node info %+v", info)
	}
	if a := node.Status.Addresses; len(a) != 2 || a[0].Address != "10.1.2.3" || a[1].Address != "n1" {
		t.Errorf("addresses %v", a)
	}
	if node.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 || len(node.Status.RuntimeHandlers) != 1 {
		t.Errorf("status %+v", node.Status)
	}
	got := drain(events)
	for _, want := range []string{"Normal Starting Starting kubelet.", "Normal NodeReady Node n1 status is now: NodeReady", "NodeHasSufficientMemory"} {
		if !strings.Contains(got, want) {
			t.Errorf("no event %q in:\n%s", want, got)
		}
	}
}

func TestRegisterAdopts(t *testing.T) {
	client := fake.NewClientset(&v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", Labels: map[string]string{"mine": "1", "disk": "hdd"}},
		Spec:       v1.NodeSpec{Taints: []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}, Unschedulable: true},
		Status: v1.NodeStatus{
			Capacity:   v1.ResourceList{"example.com/gpu": resource.MustParse("1")},
			Conditions: []v1.NodeCondition{{Type: "Foreign", Status: v1.ConditionTrue}, {Type: v1.NodeReady, Status: v1.ConditionUnknown}},
			Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}, {Type: v1.NodeInternalIP, Address: "fd00::1"}},
			NodeInfo:   v1.NodeSystemInfo{BootID: "boot-0"},
		},
	})
	n, events := newNode(t, client, &engine{network: true}, nil)
	if _, err := n.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	node := get(t, client)
	if node.Labels["mine"] != "1" || node.Labels["disk"] != "ssd" || node.Labels[v1.LabelHostname] != "n1" {
		t.Errorf("labels %v", node.Labels)
	}
	if len(node.Spec.Taints) != 1 || !node.Spec.Unschedulable || node.Spec.PodCIDR != "10.88.0.0/24" {
		t.Errorf("spec %+v", node.Spec)
	}
	if gpu := node.Status.Capacity["example.com/gpu"]; gpu.Value() != 1 {
		t.Errorf("capacity %v", node.Status.Capacity)
	}
	conditionOf(t, node, "Foreign")
	if c := conditionOf(t, node, v1.NodeReady); c.Status != v1.ConditionTrue {
		t.Errorf("Ready: %+v", c)
	}
	if a := node.Status.Addresses; len(a) != 2 || a[0].Address != "10.1.2.3" || a[1].Type != v1.NodeHostName {
		t.Errorf("addresses %v", a)
	}
	if got := drain(events); !strings.Contains(got, "Warning Rebooted Node n1 has been rebooted, boot id: boot-1") {
		t.Errorf("events:\n%s", got)
	}
}

func TestRegisterTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		tries := 0
		client.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			tries++
			return tries < 4, nil, apierrors.NewServiceUnavailable("booting")
		})
		n, _ := newNode(t, client, &engine{network: true}, nil)
		start := time.Now()
		if _, err := n.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 700*time.Millisecond {
			t.Errorf("took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tries = -100
		if _, err := n.Register(ctx); err == nil || ctx.Err() == nil {
			t.Errorf("error %v", err)
		}
	})
}

func patches(client *fake.Clientset) (n int) {
	for _, a := range client.Actions() {
		if a.Matches("patch", "nodes/status") {
			n++
		}
	}
	return n
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		eng := &engine{network: true, images: []*runtimeapi.Image{{Size: 1, RepoTags: []string{"small"}}, {Size: 2, RepoTags: []string{"big"}, RepoDigests: []string{"big@sha256:1"}}}}
		n, events := newNode(t, client, eng, nil)
		if _, err := n.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		drain(events)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.Run(ctx) })
		synctest.Wait()
		if images := get(t, client).Status.Images; patches(client) != 1 || len(images) != 2 || images[0].Names[0] != "big@sha256:1" {
			t.Errorf("%d patches, images %v", patches(client), images)
		}
		lease, err := client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if *lease.Spec.LeaseDurationSeconds != 40 || *lease.Spec.HolderIdentity != "n1" || lease.OwnerReferences[0].Kind != "Node" {
			t.Errorf("lease %+v", lease)
		}
		first := lease.Spec.RenewTime.Time

		time.Sleep(time.Minute) // nothing changes, nothing is written but the lease
		synctest.Wait()
		if p := patches(client); p != 1 {
			t.Errorf("%d patches without a change", p)
		}
		lease, err = client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, "n1", metav1.GetOptions{})
		if err != nil || lease.Spec.RenewTime.Sub(first) < 50*time.Second {
			t.Errorf("lease renewed at %v after %v: %v", lease.Spec.RenewTime, first, err)
		}

		eng.setNetwork(false)
		n.Sync()
		synctest.Wait()
		if c := conditionOf(t, get(t, client), v1.NodeReady); c.Status != v1.ConditionFalse || c.Reason != "KubeletNotReady" ||
			c.Message != "container runtime network not ready: NetworkReady=false reason:NoBridge message:no bridge" {
			t.Errorf("Ready: %+v", c)
		}
		if got := drain(events); !strings.Contains(got, "Normal NodeNotReady Node n1 status is now: NodeNotReady") {
			t.Errorf("events:\n%s", got)
		}
		eng.setNetwork(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if c := conditionOf(t, get(t, client), v1.NodeReady); c.Status != v1.ConditionTrue {
			t.Errorf("Ready: %+v", c)
		}

		// Somebody cordons the node and, missing the lease, marks it as unknown.
		node := get(t, client)
		node.Spec.Unschedulable = true
		for i := range node.Status.Conditions {
			node.Status.Conditions[i].Status = v1.ConditionUnknown
		}
		if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		n.Sync()
		synctest.Wait()
		if c := conditionOf(t, get(t, client), v1.NodeReady); c.Status != v1.ConditionTrue || !get(t, client).Spec.Unschedulable {
			t.Errorf("Ready: %+v", c)
		}
		if got := drain(events); !strings.Contains(got, "NodeNotSchedulable") {
			t.Errorf("events:\n%s", got)
		}

		before := patches(client)
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if p := patches(client) - before; p != 1 {
			t.Errorf("%d reports in five minutes", p)
		}
		cancel()
		wg.Wait()
	})
}

func TestMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		low, enough := root(t, 50<<10), root(t, 1<<20)
		n, _ := newNode(t, client, &engine{network: true}, func(c *Config) { c.Root = low })
		node, err := n.Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c := conditionOf(t, node, v1.NodeMemoryPressure); c.Status != v1.ConditionTrue || c.Reason != "KubeletHasInsufficientMemory" {
			t.Errorf("MemoryPressure: %+v", c)
		}
		n.cfg.Root = enough
		time.Sleep(time.Minute)
		if err := n.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := conditionOf(t, get(t, client), v1.NodeMemoryPressure); c.Status != v1.ConditionTrue {
			t.Errorf("after a minute: %+v", c)
		}
		time.Sleep(5 * time.Minute)
		if err := n.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := conditionOf(t, get(t, client), v1.NodeMemoryPressure); c.Status != v1.ConditionFalse {
			t.Errorf("after six minutes: %+v", c)
		}
	})
}

func TestDiskShort(t *testing.T) {
	for want, d := range map[bool]disk{
		false: {size: 1000, free: 100, inodes: 1000, freeInodes: 50},
		true:  {size: 1000, free: 99, inodes: 1000, freeInodes: 50},
	} {
		if d.short() != want {
			t.Errorf("%+v is short: %v", d, !want)
		}
	}
	if !(disk{size: 1000, free: 500, inodes: 1000, freeInodes: 49}).short() {
		t.Error("too few inodes are not noticed")
	}
	if (disk{size: 1000, free: 500}).short() {
		t.Error("a file system without inodes is short of them")
	}
}

func TestChooseIP(t *testing.T) {
	if ip := ChooseIP(); ip == nil {
		t.Error("no address at all")
	}
}
