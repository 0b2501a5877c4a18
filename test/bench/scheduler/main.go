// Command scheduler measures the scheduler against a real API server and etcd in this process: how long Pods wait for a Node in a large
// cluster, of which only the objects exist. It prints one table and judges nothing. The decisions alone are measured by
// `go test ./internal/scheduler -bench Cycle`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"peapod.dev/peapod/internal/apiserver"
	"peapod.dev/peapod/internal/datastore"
	"peapod.dev/peapod/internal/scheduler"
	"peapod.dev/peapod/internal/version"
)

type options struct {
	nodes, pods int
	profile     string
}

func main() {
	var o options
	flag.IntVar(&o.nodes, "nodes", 5000, "how many nodes there are")
	flag.IntVar(&o.pods, "pods", 10000, "how many Pods are to be scheduled")
	flag.StringVar(&o.profile, "cpuprofile", "", "file for a profile of the scheduling, for go tool pprof")
	flag.Parse()
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("/var/tmp", "peapod-bench-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	store, err := datastore.Start(ctx, datastore.Config{Dir: dir, RunDir: filepath.Join(dir, "run"), Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	server, err := apiserver.New(ctx, apiserver.Config{
		Listen: "127.0.0.1:0", PKIDir: filepath.Join(dir, "pki"), Transport: store.Transport(), Log: log, Version: version.KubernetesVersion,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var parts errgroup.Group
	parts.Go(func() error { return server.Run(ctx) })
	defer func() { err = errors.Join(err, parts.Wait()) }()
	defer stop()
	select {
	case <-server.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	return measure(ctx, o, server, log, &parts)
}

func measure(ctx context.Context, o options, server *apiserver.Server, log *slog.Logger, parts *errgroup.Group) error {
	config := rest.CopyConfig(server.LoopbackConfig())
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := each(ctx, o.nodes, func(i int) error { return createNode(ctx, client, i) }); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d nodes are there after %s\n", o.nodes, time.Since(begin).Round(time.Millisecond))
	if _, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot create a service account: %w", err)
	}

	var rows [][2]string
	row := func(name string, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	seen := watch(server, o.pods)

	// All the Pods are there before the scheduler begins.
	begin = time.Now()
	if err := each(ctx, o.pods, func(i int) error { return createPod(ctx, client, "waiting", i) }); err != nil {
		return err
	}
	row("create Pods, no scheduler", "%.0f Pods/s", float64(o.pods)/time.Since(begin).Seconds())
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	begin = time.Now()
	sched := scheduler.New(scheduler.Config{Client: client, Informers: server.Informers(), Log: log})
	parts.Go(func() error { return sched.Run(ctx) })
	if err := seen.wait(ctx); err != nil {
		return err
	}
	row("schedule Pods that wait", "%.0f Pods/s", float64(o.pods)/time.Since(begin).Seconds())

	// And now they come while it runs.
	seen.reset(o.pods / 10)
	begin = time.Now()
	if err := each(ctx, o.pods/10, func(i int) error { return createPod(ctx, client, "coming", i) }); err != nil {
		return err
	}
	if err := seen.wait(ctx); err != nil {
		return err
	}
	row("create and schedule more Pods", "%.0f Pods/s", float64(o.pods)/10/time.Since(begin).Seconds())
	var alone []time.Duration
	for i := range 50 {
		seen.reset(1)
		begin = time.Now()
		if err := createPod(ctx, client, "alone", i); err != nil {
			return err
		}
		if err := seen.wait(ctx); err != nil {
			return err
		}
		alone = append(alone, time.Since(begin))
	}
	slices.Sort(alone)
	row("create a Pod until it has its node, median", "%.1f ms", float64(alone[len(alone)/2].Microseconds())/1000)
	row("the same, longest of 50", "%.1f ms", float64(alone[len(alone)-1].Microseconds())/1000)

	fmt.Printf("| %d nodes, %d Pods, real API server and etcd | |\n|---|---|\n", o.nodes, o.pods)
	for _, r := range rows {
		fmt.Printf("| %s | %s |\n", r[0], r[1])
	}
	return nil
}

// each does n things, some at a time.
func each(ctx context.Context, n int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(64)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(i) })
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func createNode(ctx context.Context, client kubernetes.Interface, i int) error {
	name := fmt.Sprintf("node-%d", i)
	amounts := v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110")}
	node, err := client.CoreV1().Nodes().Create(ctx, &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name, v1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3)}},
		Status:     v1.NodeStatus{Capacity: amounts, Allocatable: amounts},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot create node %s: %w", name, err)
	}
	node.Spec.Taints = nil // admission says that the node is not ready, which nobody here would ever change
	if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("cannot take the taint from node %s: %w", name, err)
	}
	return nil
}

func createPod(ctx context.Context, client kubernetes.Interface, kind string, i int) error {
	name := fmt.Sprintf("%s-%d", kind, i)
	_, err := client.CoreV1().Pods("default").Create(ctx, &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": kind}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "busybox", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("50Mi")}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot create Pod %s: %w", name, err)
	}
	return nil
}

// sight counts Pods that get a node, as a watch tells it.
type sight struct {
	mu   sync.Mutex
	left int
	done chan struct{}
}

func watch(server *apiserver.Server, pods int) *sight {
	s := &sight{}
	s.reset(pods)
	server.Informers().Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, now any) {
		if before.(*v1.Pod).Spec.NodeName != "" || now.(*v1.Pod).Spec.NodeName == "" {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.left--; s.left == 0 {
			close(s.done)
		}
	}})
	return s
}

func (s *sight) reset(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.done = n, make(chan struct{})
}

func (s *sight) wait(ctx context.Context) error {
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
