package image

import (
	"context"
	"errors"
	"sync"
)

var errClosed = errors.New("container storage is closed")

// flights makes concurrent pulls of the same image one. A flight lives for as long as someone waits for it, not for as long
// as the first caller does.
type flights struct {
	mu     sync.Mutex
	byKey  map[string]*flight
	closed bool
	wg     sync.WaitGroup
}

type flight struct {
	cancel  context.CancelCauseFunc
	done    chan struct{}
	waiting int // guarded by flights.mu

	listening sync.Mutex
	listeners map[*func(Progress)]struct{}

	img *Image // img and err are set when done is closed
	err error
}

// do returns the result of the flight for key, and starts it with run if there is none. progress may be nil; it is never
// called after do has returned.
func (fs *flights) do(ctx context.Context, key string, progress func(Progress), run func(context.Context, func(Progress)) (*Image, error)) (*Image, error) {
	f, err := fs.join(ctx, key, run)
	if err != nil {
		return nil, err
	}
	if progress != nil {
		f.listen(&progress)
		defer f.unlisten(&progress)
	}
	select {
	case <-f.done:
		return f.img, f.err
	case <-ctx.Done():
		fs.leave(key, f)
		return nil, context.Cause(ctx)
	}
}

func (fs *flights) join(ctx context.Context, key string, run func(context.Context, func(Progress)) (*Image, error)) (*flight, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, errClosed
	}
	if f := fs.byKey[key]; f != nil {
		f.waiting++
		return f, nil
	}
	f := &flight{done: make(chan struct{}), waiting: 1, listeners: map[*func(Progress)]struct{}{}}
	ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if fs.byKey == nil {
		fs.byKey = map[string]*flight{}
	}
	fs.byKey[key] = f
	fs.wg.Go(func() {
		f.img, f.err = run(ctx, f.tell)
		fs.forget(key, f)
		f.cancel(nil)
		close(f.done)
	})
	return f, nil
}

// leave ends the flight if nobody waits for it any more, and then waits until it has cleaned up.
func (fs *flights) leave(key string, f *flight) {
	fs.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	if last && fs.byKey[key] == f {
		delete(fs.byKey, key) // whoever comes now starts anew
	}
	fs.mu.Unlock()
	if last {
		f.cancel(context.Canceled)
		<-f.done
	}
}

func (fs *flights) forget(key string, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[key] == f {
		delete(fs.byKey, key)
	}
}

// close ends all flights, waits for them, and refuses new ones.
func (fs *flights) close() {
	fs.mu.Lock()
	fs.closed = true
	for _, f := range fs.byKey {
		f.cancel(errClosed)
	}
	fs.mu.Unlock()
	fs.wg.Wait()
}

func (f *flight) listen(progress *func(Progress)) {
	f.listening.Lock()
	defer f.listening.Unlock()
	f.listeners[progress] = struct{}{}
}

func (f *flight) unlisten(progress *func(Progress)) {
	f.listening.Lock()
	defer f.listening.Unlock()
	delete(f.listeners, progress)
}

func (f *flight) tell(p Progress) {
	f.listening.Lock()
	defer f.listening.Unlock()
	for progress := range f.listeners {
		(*progress)(p)
	}
}
