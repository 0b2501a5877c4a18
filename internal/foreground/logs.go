package foreground

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// maxLine bounds one line of a log; longer ones are cut into several.
const maxLine = 64 << 10

// printer writes whole lines, from many goroutines.
type printer struct {
	mu            sync.Mutex
	out, progress io.Writer
}

func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.progress, format+"\n", args...)
}

func (p *printer) line(prefix string, text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%s%s\n", prefix, text)
}

// logs follows the log of every attempt of every container of one Pod, once each.
type logs struct {
	ctx     context.Context // of the Pod's follow, which waits for all readers
	client  kubernetes.Interface
	out     *printer
	several bool

	wg   sync.WaitGroup
	seen map[string]bool // container ids
}

func newLogs(ctx context.Context, client kubernetes.Interface, out *printer, several bool) *logs {
	return &logs{ctx: ctx, client: client, out: out, several: several, seen: map[string]bool{}}
}

func (l *logs) wait() { l.wg.Wait() }

// see starts a reader for every attempt that has begun and has none.
func (l *logs) see(p *v1.Pod) {
	for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range statuses {
			if s.ContainerID == "" || l.seen[s.ContainerID] || s.State.Running == nil && s.State.Terminated == nil {
				continue
			}
			l.seen[s.ContainerID] = true
			prefix := ""
			switch {
			case l.several:
				prefix = fmt.Sprintf("[%s/%s] ", p.Name, s.Name)
			case len(p.Spec.InitContainers)+len(p.Spec.Containers) > 1:
				prefix = fmt.Sprintf("[%s] ", s.Name)
			}
			l.wg.Go(func() { l.follow(p, s.Name, prefix) })
		}
	}
}

func (l *logs) follow(p *v1.Pod, container, prefix string) {
	stream, err := l.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &v1.PodLogOptions{Container: container, Follow: true}).Stream(l.ctx)
	if err != nil {
		if l.ctx.Err() == nil {
			l.out.say("cannot read the log of container %s: %v", container, err)
		}
		return
	}
	defer stream.Close()
	r := bufio.NewReaderSize(stream, maxLine)
	for {
		text, _, err := r.ReadLine()
		if err != nil {
			return
		}
		l.out.line(prefix, text)
	}
}
