package probe

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// execPerCPU is how many commands may be at work at once for each processor: more would only make each other late.
	execPerCPU = 8
	// patience is how long a command is taken to be at work. One that takes longer waits for something itself, and its
	// turn passes on; next time it takes its turn among its like.
	patience = 100 * time.Millisecond
)

// turns bounds the commands of exec probes that are at work at the same time, so that many that are due at once do not
// all run into their timeouts. Those known to be slow are apart: however many hang, the quick ones do not wait for them.
// Probes over the network need no turn, a waiting one costs next to nothing.
type turns struct{ quick, slow chan struct{} }

func newTurns(n int) turns {
	if n <= 0 {
		n = execPerCPU * runtime.GOMAXPROCS(0)
	}
	return turns{quick: make(chan struct{}, n), slow: make(chan struct{}, n)}
}

// take waits for a turn, or for the end of ctx; done gives it back.
func (t turns) take(ctx context.Context, slow bool) (done func(), err error) {
	turn := t.quick
	if slow {
		turn = t.slow
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	pass := sync.OnceFunc(func() { <-turn })
	late := time.AfterFunc(patience, pass)
	return func() { late.Stop(); pass() }, nil
}
