package worker

import (
	"bufio"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// edges are the changes of state that the API was told, as "Pod: Pending --> Running".
type edges map[string]bool

func (e edges) add(machine, from, to string) {
	if from != to {
		e[machine+": "+from+" --> "+to] = true
	}
}

// report adds the changes from one status of a Pod to the next.
func (e edges) report(old, s *v1.PodStatus) {
	if old.StartTime == nil {
		e.add("Pod", "[*]", "Pending") // the API server's own
	}
	e.add("Pod", string(old.Phase), string(s.Phase))
	for _, lists := range [][2][]v1.ContainerStatus{{old.InitContainerStatuses, s.InitContainerStatuses}, {old.ContainerStatuses, s.ContainerStatuses}} {
		for _, c := range lists[1] {
			before, found := podutil.GetContainerStatus(lists[0], c.Name)
			from := "Waiting" // until its status says something else
			if found {
				from = stateOf(before.State)
			} else {
				e.add("Container", "[*]", from)
			}
			e.add("Container", from, stateOf(c.State))
		}
	}
}

func stateOf(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "Running"
	case s.Terminated != nil:
		return "Terminated"
	}
	return "Waiting"
}

// compare holds what was seen against the state diagrams of a document: each must be drawn, and each that is drawn seen.
func (e edges) compare(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	drawn, machine := edges{}, ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if title, ok := strings.CutPrefix(line, "## "); ok {
			machine, _, _ = strings.Cut(title, ":")
		}
		if from, to, ok := strings.Cut(line, " --> "); ok {
			to, _, _ = strings.Cut(to, " :")
			drawn.add(machine, from, to)
		}
	}
	for _, edge := range slices.Sorted(maps.Keys(e)) {
		if !drawn[edge] {
			t.Errorf("%s: not in %s", edge, path)
		}
	}
	for _, edge := range slices.Sorted(maps.Keys(drawn)) {
		if !e[edge] {
			t.Errorf("%s: in %s, but never seen", edge, path)
		}
	}
}
