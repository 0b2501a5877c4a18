package daemon

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"
)

// Every garbage collection is told of, until nobody listens any more.
func TestNotifyCollections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	collected := make(chan struct{}, 1)
	notifyCollections(ctx, collected)
	for range 3 {
		deadline := time.After(10 * time.Second)
		for told := false; !told; {
			runtime.GC() // finalizers run after it, some time
			select {
			case <-collected:
				told = true
			case <-deadline:
				t.Fatal("a garbage collection was not told of")
			default:
			}
		}
	}
	cancel()
}

// Memory that only a moment needed goes back to the machine.
func TestKeepSmall(t *testing.T) {
	const size = 64 << 20
	garbage := make([]byte, size)
	for i := range garbage {
		garbage[i] = 1
	}
	before := resident()
	if before < size {
		t.Fatalf("resident = %d with %d in use", before, size)
	}
	runtime.KeepAlive(garbage)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keepSmall(ctx, slog.New(slog.DiscardHandler))
	}()
	for deadline := time.Now().Add(10 * time.Second); resident() > before-size/2; {
		if time.Now().After(deadline) {
			t.Fatalf("resident = %d, was %d", resident(), before)
		}
		runtime.Gosched()
	}
	cancel()
	<-done
}
