// Package foreground runs manifests as a person runs a program: it creates their objects, shows how the Pods
// come up, prints their logs, ends them when told to, and returns their exit code.
//
// Invariants: what Run created it removes, whatever happens but the loss of the API server; what existed
// before is not touched.
package foreground

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Options say what to run and where to show it.
type Options struct {
	Config genericclioptions.RESTClientGetter
	Client kubernetes.Interface
	// Files are paths, or "-" for Stdin.
	Files []string
	Stdin io.Reader
	// Out gets the Pods' logs, Progress everything else.
	Out, Progress io.Writer
}

// cleanupTimeout bounds how long Run waits for its Pods to be gone, beyond their grace periods.
const cleanupTimeout = 30 * time.Second

// Run creates what the files say and follows the Pods until all have ended or ctx ends; then it deletes
// everything it created, Pods with their grace period. The exit code is that of the first container that
// failed, 0 if none did; it is 130 when ctx ended first.
func Run(ctx context.Context, o Options) (code int, err error) {
	infos, err := read(o)
	if err != nil {
		return 1, err
	}
	out := &printer{out: o.Out, progress: o.Progress}
	var created []*resource.Info
	defer func() { err = errors.Join(err, remove(ctx, o.Client, created, out)) }()
	var pods []*v1.Pod
	for _, info := range infos {
		object, err := resource.NewHelper(info.Client, info.Mapping).WithFieldValidation("Strict").Create(info.Namespace, true, info.Object)
		if err != nil {
			return 1, fmt.Errorf("cannot create %s: %w", info.ObjectName(), err)
		}
		if err := info.Refresh(object, true); err != nil {
			return 1, err
		}
		created = append(created, info)
		out.say("%s created", info.ObjectName())
		if info.Mapping.GroupVersionKind.GroupKind() == v1.SchemeGroupVersion.WithKind("Pod").GroupKind() {
			pods = append(pods, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: info.Name, Namespace: info.Namespace}})
		}
	}
	if len(pods) == 0 {
		return 1, errors.New("cannot run: the manifests have no Pod")
	}
	codes := make([]int, len(pods))
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() { codes[i], errs[i] = follow(ctx, o.Client, pod, out, len(pods) > 1) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return 130, nil
	}
	for _, c := range codes {
		if c != 0 {
			return c, errors.Join(errs...)
		}
	}
	return 0, errors.Join(errs...)
}

// read parses the files without asking for the objects that they describe.
func read(o Options) ([]*resource.Info, error) {
	namespace, _, err := o.Config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	b := resource.NewBuilder(o.Config).Unstructured().NamespaceParam(namespace).DefaultNamespace().ContinueOnError().Flatten()
	var files []string
	for _, f := range o.Files {
		if f == "-" {
			b = b.Stream(o.Stdin, "standard input")
		} else {
			files = append(files, f)
		}
	}
	if len(files) > 0 {
		b = b.FilenameParam(false, &resource.FilenameOptions{Filenames: files})
	}
	infos, err := b.Do().Infos()
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifests: %w", err)
	}
	return infos, nil
}

// follow shows a Pod's progress and logs until it has ended, and returns its exit code.
func follow(ctx context.Context, client kubernetes.Interface, pod *v1.Pod, out *printer, several bool) (int, error) {
	selector := fields.OneTermEqualSelector("metadata.name", pod.Name).String()
	list := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods(pod.Namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods(pod.Namespace).Watch(ctx, o)
		},
	}
	logs := newLogs(ctx, client, out, several)
	defer logs.wait()
	last := ""
	code := 0
	_, err := watchtools.UntilWithSync(ctx, list, &v1.Pod{}, nil, func(e watch.Event) (bool, error) {
		p, ok := e.Object.(*v1.Pod)
		if !ok || e.Type == watch.Deleted {
			return true, fmt.Errorf("pod %s/%s was deleted", pod.Namespace, pod.Name)
		}
		if now := summary(p); now != last {
			out.say("pod/%s %s", p.Name, now)
			last = now
		}
		logs.see(p)
		code = exitCode(p)
		return podutil.IsPodPhaseTerminal(p.Status.Phase), nil
	})
	if ctx.Err() != nil {
		return 130, nil
	}
	return code, err
}

// summary is one line about where a Pod is.
func summary(p *v1.Pod) string {
	if _, c := podutil.GetPodCondition(&p.Status, v1.PodScheduled); c != nil && c.Status == v1.ConditionFalse {
		return fmt.Sprintf("%s: %s: %s", p.Status.Phase, c.Reason, c.Message)
	}
	for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range statuses {
			if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return fmt.Sprintf("%s: container %s: %s: %s", p.Status.Phase, s.Name, w.Reason, w.Message)
			}
		}
	}
	switch {
	case p.Status.Reason != "":
		return fmt.Sprintf("%s: %s: %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
	case podutil.IsPodReady(p):
		return "Ready"
	}
	return string(p.Status.Phase)
}

// exitCode is that of the first container that failed, in the order of the spec.
func exitCode(p *v1.Pod) int {
	for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range statuses {
			if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
				return int(t.ExitCode)
			}
		}
	}
	if p.Status.Phase == v1.PodFailed {
		return 1
	}
	return 0
}

// remove deletes what was created, newest first, and waits until the Pods among it are gone.
func remove(ctx context.Context, client kubernetes.Interface, created []*resource.Info, out *printer) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := len(created) - 1; i >= 0; i-- {
		info := created[i]
		_, err := resource.NewHelper(info.Client, info.Mapping).Delete(info.Namespace, info.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("cannot delete %s: %w", info.ObjectName(), err))
			continue
		}
		if info.Mapping.GroupVersionKind.Kind != "Pod" {
			continue
		}
		wg.Go(func() {
			if err := gone(ctx, client, info.Namespace, info.Name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return
			}
			out.say("pod/%s deleted", info.Name)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// gone waits until a Pod that is being deleted exists no longer.
func gone(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	timeout := cleanupTimeout
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		timeout += time.Duration(*s) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(), ResourceVersion: pod.ResourceVersion,
	})
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Deleted {
			return nil
		}
	}
	return fmt.Errorf("cannot see pod %s/%s end within %s", namespace, name, timeout)
}
