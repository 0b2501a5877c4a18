package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

const namespace = "default"

var errWatchEnded = errors.New("cannot watch Pods: the watch has ended")

// stage measures with one watch on all Pods, opened before the first of them is made.
type stage struct {
	client kubernetes.Interface
	events <-chan watch.Event
}

// openStage waits for the namespace's service account, without which no Pod is admitted, and opens the watch, which ctx
// ends.
func openStage(ctx context.Context, client kubernetes.Interface) (*stage, error) {
	accounts, err := client.CoreV1().ServiceAccounts(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=default"})
	if err != nil {
		return nil, fmt.Errorf("cannot watch service accounts: %w", err)
	}
	defer accounts.Stop()
	select {
	case <-accounts.ResultChan(): // what is there already comes first
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	pods := client.CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list pods: %w", err)
	}
	// The API server ends a watch that does not keep up, as under a burst it may not; this one then goes on where it was.
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: pods.Watch})
	if err != nil {
		return nil, fmt.Errorf("cannot watch pods: %w", err)
	}
	return &stage{client: client, events: watcher.ResultChan()}, nil
}

// task is a busybox Pod whose process ends on TERM at once.
func task(name string, token bool) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &token,
			Containers: []corev1.Container{{
				Name:            "shell",
				Image:           "docker.io/library/busybox:latest",
				ImagePullPolicy: corev1.PullIfNotPresent,
				Command:         []string{"sh", "-c", `trap "exit 0" TERM; sleep 1000 & wait`},
			}},
		},
	}
}

func withToken(name string) *corev1.Pod { return task(name, true) }

// createReady creates the Pod and returns the time until its Ready condition is seen.
func (s *stage) createReady(ctx context.Context, pod *corev1.Pod) (time.Duration, error) {
	begin := time.Now()
	if err := s.create(ctx, pod); err != nil {
		return 0, err
	}
	err := s.wait(ctx, func(e watch.Event, seen *corev1.Pod) bool { return seen.Name == pod.Name && ready(e, seen) })
	return time.Since(begin), err
}

func (s *stage) create(ctx context.Context, pod *corev1.Pod) error {
	if _, err := s.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot create Pod: %w", err)
	}
	return nil
}

// createReadyAll creates n Pods at once, and returns the time until all are seen Ready.
func (s *stage) createReadyAll(ctx context.Context, n int, pod func(name string) *corev1.Pod) (time.Duration, error) {
	begin := time.Now()
	var creates errgroup.Group
	for i := range n {
		creates.Go(func() error { return s.create(ctx, pod(fmt.Sprintf("burst-%d", i))) })
	}
	up := map[string]bool{}
	err := s.wait(ctx, func(e watch.Event, seen *corev1.Pod) bool {
		if ready(e, seen) {
			up[seen.Name] = true
		}
		return len(up) == n
	})
	took := time.Since(begin)
	return took, errors.Join(creates.Wait(), err)
}

// deleteGone deletes the Pod and returns the time until it is seen gone.
func (s *stage) deleteGone(ctx context.Context, name string) (time.Duration, error) {
	begin := time.Now()
	if err := s.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("cannot delete Pod: %w", err)
	}
	err := s.wait(ctx, func(e watch.Event, seen *corev1.Pod) bool { return seen.Name == name && e.Type == watch.Deleted })
	return time.Since(begin), err
}

// deleteGoneAll deletes the n Pods of createReadyAll and waits until all are gone.
func (s *stage) deleteGoneAll(ctx context.Context, n int) error {
	var request errgroup.Group // beside the watch, which the server ends when nobody reads it
	request.Go(func() error {
		if err := s.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return fmt.Errorf("cannot delete Pods: %w", err)
		}
		return nil
	})
	gone := 0
	err := s.wait(ctx, func(e watch.Event, _ *corev1.Pod) bool {
		if e.Type == watch.Deleted {
			gone++
		}
		return gone == n
	})
	return errors.Join(request.Wait(), err)
}

// idle lets time pass and takes the events meanwhile.
func (s *stage) idle(ctx context.Context, d time.Duration) error {
	over := time.After(d)
	for {
		select {
		case <-over:
			return nil
		case _, open := <-s.events:
			if !open {
				return errWatchEnded
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func ready(e watch.Event, pod *corev1.Pod) bool {
	if e.Type == watch.Deleted {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// wait takes events until done is true of one.
func (s *stage) wait(ctx context.Context, done func(watch.Event, *corev1.Pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // 200 Pods that are probed as soon as they run take their time
	defer cancel()
	for {
		select {
		case e, open := <-s.events:
			if !open {
				return errWatchEnded
			}
			if pod, ok := e.Object.(*corev1.Pod); ok && done(e, pod) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("cannot see what was waited for: %w", ctx.Err())
		}
	}
}
