//go:build faults

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The environment of a program that is built with faults.
const (
	// Env is NAME or NAME:N: the program ends the Nth time that it comes to the point.
	Env = "PEAPOD_FAULT"
	// TraceEnv is a file to which each point is written that the program comes to: the process, and the name; a line each.
	TraceEnv = "PEAPOD_FAULT_TRACE"
)

var armed = sync.OnceValue(func() *plan {
	p := &plan{at: 1}
	name, count, found := strings.Cut(os.Getenv(Env), ":")
	if n, err := strconv.Atoi(count); found && err == nil {
		p.at = n
	}
	p.name = name
	if path := os.Getenv(TraceEnv); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			panic(err)
		}
		p.trace = f
	}
	return p
})

// plan is what the environment says.
type plan struct {
	name  string
	trace *os.File

	mu sync.Mutex
	at int // comings to go
}

// Point is a place by its name; of the kinds of a thing that pass the same place, each is a place of its own.
func Point(name string, kind ...any) {
	for _, k := range kind {
		name += " " + strings.TrimPrefix(fmt.Sprintf("%T", k), "plan.")
	}
	p := armed()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trace != nil {
		fmt.Fprintln(p.trace, os.Getpid(), name)
	}
	if name != p.name {
		return
	}
	if p.at--; p.at == 0 {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // nothing more happens here, while the kernel does it
	}
}
