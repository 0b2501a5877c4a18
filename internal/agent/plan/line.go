package plan

import (
	v1 "k8s.io/api/core/v1"
)

// line is the containers to start, in the order in which their processes begin. Containers start one after another in the
// order of the spec, and a postStart hook holds up those behind it, as in the kubelet's SyncPod: Pods rely on it to have
// a proxy up before the app. One that waits for its back-off holds up nobody.
type line struct {
	starts []Action
	// held: an earlier container is on its way, so the next may be made but its process waits.
	held bool
	// closed: an earlier container's image is not there yet, or its postStart hook may change what the next one is made
	// of (a subPath, a Secret), so the next is not even made.
	closed bool
}

// join puts a container at the end of the line.
func (l *line) join(a StartContainer, c *v1.Container) {
	a.Hold = l.held || l.closed
	l.starts = append(l.starts, a)
	l.held = true
	l.closed = l.closed || c.Lifecycle != nil && c.Lifecycle.PostStart != nil
}
