package scheduler

import (
	"cmp"
	"container/heap"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Back-off after an attempt in vain, doubling from first to most (upstream's podInitialBackoffSeconds and podMaxBackoffSeconds).
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
)

// stage is where a waiting Pod is.
type stage int

const (
	active  stage = iota // to be tried as soon as possible
	busy                 // being decided about or reported: nobody else may touch it
	binding              // has its Node, which the API server is being told
	parked               // fits nowhere; tried again when an event can help
	backoff              // an event can help; tried at item.due, or earlier when there is nothing else to do
	failed               // an error happened; tried again at item.due
)

// item is a Pod that waits for a Node.
type item struct {
	pod    *cluster.Pod
	stage  stage
	since  time.Time // when the Pod was first seen: among equal priorities the first comes first
	tries  int       // attempts that found no Node
	errors int       // attempts in a row that ended in an error
	due    time.Time // end of the back-off
	again  bool      // something happened while busy that asks for another try
	index  int       // place in the heap that holds the item

	nodeless bool      // parked because there was no Node at all
	distant  bool      // parked because of what is elsewhere
	reported string    // the message last shown to the user, and when
	at       time.Time //
}

// queue holds every Pod that waits for a Node. It is not safe for concurrent use.
type queue struct {
	items   map[types.UID]*item
	waiting map[*item]bool // those for which an event may matter: parked and busy ones
	active  itemHeap       // the most important first
	backoff itemHeap       // the first due first; of those due in the same second, the most important
	failed  itemHeap       // the first due first
}

func newQueue() *queue {
	return &queue{
		items:   map[types.UID]*item{},
		waiting: map[*item]bool{},
		active:  itemHeap{before: moreImportant},
		backoff: itemHeap{before: func(a, b *item) bool {
			if c := a.due.Truncate(time.Second).Compare(b.due.Truncate(time.Second)); c != 0 {
				return c < 0
			}
			return moreImportant(a, b)
		}},
		failed: itemHeap{before: func(a, b *item) bool { return a.due.Before(b.due) }},
	}
}

func moreImportant(a, b *item) bool {
	if c := cmp.Compare(a.pod.Priority, b.pod.Priority); c != 0 {
		return c > 0
	}
	return a.since.Before(b.since)
}

// set adds a Pod, or takes over a newer version of it; a change of what it wants is a reason to try again, and so are new labels where
// other Pods matter.
func (q *queue) set(pod *cluster.Pod, now time.Time) {
	it := q.items[pod.UID]
	if it == nil {
		it = &item{pod: pod, stage: parked, since: now}
		q.items[pod.UID] = it
		q.activate(it, now)
		return
	}
	changed := !equality.Semantic.DeepEqual(it.pod.Spec, pod.Spec) || it.distant && !maps.Equal(it.pod.Labels, pod.Labels)
	it.pod = pod
	switch {
	case it.stage == active:
		heap.Fix(&q.active, it.index) // the priority may be another
	case it.stage == backoff:
		heap.Fix(&q.backoff, it.index)
	case changed:
		q.activate(it, now)
	}
}

// remove forgets a Pod.
func (q *queue) remove(uid types.UID) {
	if it := q.items[uid]; it != nil {
		q.leave(it)
		delete(q.items, uid)
	}
}

// holds reports whether it still is the item of its Pod, which may have gone while it was busy.
func (q *queue) holds(it *item) bool { return q.items[it.pod.UID] == it }

// pop returns the most important Pod that is to be tried, now busy, or nil.
func (q *queue) pop(now time.Time) *item {
	for _, waiting := range []*itemHeap{&q.backoff, &q.failed} {
		for len(waiting.items) > 0 && !waiting.items[0].due.After(now) {
			q.enter(waiting.items[0], active)
		}
	}
	var it *item
	switch {
	case len(q.active.items) > 0:
		it = q.active.items[0]
	case len(q.backoff.items) > 0:
		it = q.backoff.items[0] // nobody has to wait when there is nothing better to do
	default:
		return nil
	}
	q.enter(it, busy)
	it.again = false
	return it
}

// due returns when the next back-off after an error ends. Pods of other back-offs are tried before the queue comes to rest.
func (q *queue) due() (time.Time, bool) {
	if len(q.failed.items) == 0 {
		return time.Time{}, false
	}
	return q.failed.items[0].due, true
}

// activate has a waiting Pod tried again, after its back-off or when it is no longer busy. The back-off after an error is not cut short.
func (q *queue) activate(it *item, now time.Time) {
	switch it.stage {
	case parked:
		if it.due.After(now) {
			q.enter(it, backoff)
		} else {
			q.enter(it, active)
		}
	case busy:
		it.again = true
	}
}

// bind has a busy item wait for the API server. What happens meanwhile does not matter: it is gone after that, or has failed.
func (q *queue) bind(it *item) { q.enter(it, binding) }

// park ends a busy item's attempt that found no Node.
func (q *queue) park(it *item, now time.Time) {
	it.due = now.Add(delay(it.tries))
	it.tries++
	it.errors = 0
	if it.again {
		q.enter(it, backoff)
	} else {
		q.enter(it, parked)
	}
}

// retry ends a busy item's attempt that failed.
func (q *queue) retry(it *item, now time.Time) {
	it.due = now.Add(delay(it.errors))
	it.errors++
	q.enter(it, failed)
}

func delay(before int) time.Duration { return min(firstBackoff<<min(before, 10), mostBackoff) }

func (q *queue) enter(it *item, s stage) {
	q.leave(it)
	it.stage = s
	switch s {
	case parked, busy:
		q.waiting[it] = true
	case active:
		heap.Push(&q.active, it)
	case backoff:
		heap.Push(&q.backoff, it)
	case failed:
		heap.Push(&q.failed, it)
	}
}

func (q *queue) leave(it *item) {
	switch it.stage {
	case parked, busy:
		delete(q.waiting, it)
	case active:
		heap.Remove(&q.active, it.index)
	case backoff:
		heap.Remove(&q.backoff, it.index)
	case failed:
		heap.Remove(&q.failed, it.index)
	}
	it.stage = parked
}

// itemHeap implements heap.Interface.
type itemHeap struct {
	items  []*item
	before func(a, b *item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.before(h.items[i], h.items[j]) }

func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}

func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.index = len(h.items)
	h.items = append(h.items, it)
}

func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}
