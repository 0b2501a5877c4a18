// Package controllertest runs one controller against an API server in memory, in a bubble with its own clock.
package controllertest

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// World is what a controller is made of, and the test that looks at what it does.
type World struct {
	*testing.T
	Client   *fake.Clientset
	Shared   informers.SharedInformerFactory
	Recorder *record.FakeRecorder
	Log      *slog.Logger
}

// Controller is what is run, and the informers that only it has.
type Controller struct {
	Run       func(ctx context.Context, workers int) error
	Informers []cache.SharedIndexInformer
}

// Run makes a controller, lets it settle, and calls test. All goroutines must have ended after that.
func Run(t *testing.T, objects []runtime.Object, build func(w *World) Controller, test func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(objects...)
		w := &World{T: t, Client: client, Shared: informers.NewSharedInformerFactory(client, 0),
			Recorder: record.NewFakeRecorder(1000), Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		c := build(w)
		done := make(chan error)
		for _, informer := range c.Informers {
			go informer.RunWithContext(ctx)
		}
		w.Shared.Start(ctx.Done())
		go func() { done <- c.Run(ctx, 2) }()
		synctest.Wait()
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Shared.Shutdown()
	})
}

// Settle waits until nothing moves any more.
func (w *World) Settle() { synctest.Wait() }

// Events returns the events since the last call, each as "Type Reason Message", by line.
func (w *World) Events() string {
	var all []string
	for {
		select {
		case e := <-w.Recorder.Events:
			all = append(all, e)
		default:
			return strings.Join(all, "\n")
		}
	}
}

// Must fails the test if err is not nil, and lets the controller settle.
func (w *World) Must(_ any, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	w.Settle()
}

// Pod returns the Pod of the namespace ns, or nil when there is none.
func (w *World) Pod(name string) *v1.Pod {
	pod, err := w.Client.CoreV1().Pods("ns").Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return pod
}

// Node returns the Node, or nil when there is none.
func (w *World) Node(name string) *v1.Node {
	node, err := w.Client.CoreV1().Nodes().Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return node
}
