package scheduler

import (
	"cmp"
	"container/heap"
	"iter"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"peapod.dev/peapod/internal/scheduler/cluster"
)

// Back-off after an error, doubling from first to most (upstream's podInitialBackoffSeconds and podMaxBackoffSeconds).
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
)

// stage is where a waiting Pod is.
type stage int

const (
	active  stage = iota // to be tried as soon as possible
	busy                 // being bound or reported: nobody else may touch it
	parked               // fits nowhere; tried again when an event can help
	backoff              // an error happened; tried again at item.due
)

// item is a Pod that waits for a Node.
type item struct {
	pod    *cluster.Pod
	stage  stage
	since  time.Time // when the Pod was first seen: among equal priorities the first comes first
	errors int       // attempts in a row that ended in an error
	due    time.Time // end of the back-off
	again  bool      // something happened while busy that asks for another try
	index  int       // place in the heap that holds the item

	nodeless bool      // parked because there was no Node at all
	reported string    // the message last shown to the user, and when
	at       time.Time //
}

// queue holds every Pod that waits for a Node. It is not safe for concurrent use.
type queue struct {
	items  map[types.UID]*item
	active itemHeap // the most important first
	delay  itemHeap // the first due first
}

func newQueue() *queue {
	return &queue{
		items:  map[types.UID]*item{},
		active: itemHeap{before: moreImportant},
		delay:  itemHeap{before: func(a, b *item) bool { return a.due.Before(b.due) }},
	}
}

func moreImportant(a, b *item) bool {
	if c := cmp.Compare(corev1helpers.PodPriority(a.pod.Pod), corev1helpers.PodPriority(b.pod.Pod)); c != 0 {
		return c > 0
	}
	return a.since.Before(b.since)
}

// set adds a Pod, or takes over a newer version of it; a change of what it wants is a reason to try again.
func (q *queue) set(pod *cluster.Pod, now time.Time) {
	it := q.items[pod.UID]
	if it == nil {
		it = &item{pod: pod, stage: parked, since: now}
		q.items[pod.UID] = it
		q.activate(it)
		return
	}
	changed := !equality.Semantic.DeepEqual(it.pod.Spec, pod.Spec)
	it.pod = pod
	switch {
	case it.stage == active:
		heap.Fix(&q.active, it.index) // the priority may be another
	case changed:
		q.activate(it)
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
	for len(q.delay.items) > 0 && !q.delay.items[0].due.After(now) {
		q.enter(q.delay.items[0], active)
	}
	if len(q.active.items) == 0 {
		return nil
	}
	it := q.active.items[0]
	q.enter(it, busy)
	it.again = false
	return it
}

// due returns when the next back-off ends.
func (q *queue) due() (time.Time, bool) {
	if len(q.delay.items) == 0 {
		return time.Time{}, false
	}
	return q.delay.items[0].due, true
}

// activate has a waiting Pod tried again, at once or as soon as it is no longer busy. A back-off is not cut short.
func (q *queue) activate(it *item) {
	switch it.stage {
	case parked:
		q.enter(it, active)
	case busy:
		it.again = true
	}
}

// park ends a busy item's attempt that found no Node.
func (q *queue) park(it *item) {
	it.errors = 0
	if it.again {
		q.enter(it, active)
	} else {
		q.enter(it, parked)
	}
}

// retry ends a busy item's attempt that failed.
func (q *queue) retry(it *item, now time.Time) {
	it.due = now.Add(min(firstBackoff<<min(it.errors, 10), mostBackoff))
	it.errors++
	q.enter(it, backoff)
}

// waiting yields the Pods for which an event may matter.
func (q *queue) waiting() iter.Seq[*item] {
	return func(yield func(*item) bool) {
		for _, it := range q.items {
			if (it.stage == parked || it.stage == busy) && !yield(it) {
				return
			}
		}
	}
}

func (q *queue) enter(it *item, s stage) {
	q.leave(it)
	it.stage = s
	switch s {
	case active:
		heap.Push(&q.active, it)
	case backoff:
		heap.Push(&q.delay, it)
	}
}

func (q *queue) leave(it *item) {
	switch it.stage {
	case active:
		heap.Remove(&q.active, it.index)
	case backoff:
		heap.Remove(&q.delay, it.index)
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
