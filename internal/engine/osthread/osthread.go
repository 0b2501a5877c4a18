// Package osthread runs code on OS threads that end with it, so that what the code does to its thread (namespaces,
// control groups) stays there.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Go runs f on a thread of its own. It is never the main thread, which stands for the process in /proc/self and which
// the Go runtime cannot end.
func Go(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// Hold the main thread until another one runs f.
		running := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(running)
			f()
		}()
		<-running
		runtime.UnlockOSThread()
	}()
}

// Do is Go that waits and returns the error of f.
func Do(f func() error) error {
	result := make(chan error, 1)
	Go(func() { result <- f() })
	return <-result
}
