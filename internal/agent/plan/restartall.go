package plan

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// RestartsAll tells whether a container has ended in a way for which its restartPolicyRules say RestartAllContainers: the
// Pod then starts anew in its sandbox, with its volumes ("Pod Lifecycle", Restart all containers).
func RestartsAll(pod *v1.Pod, seen *Observed) bool {
	for c := range podutil.ContainerIter(&pod.Spec, podutil.InitContainers|podutil.Containers) {
		if latest := seen.Latest(c.Name); latest != nil && asksForAll(c, latest) {
			return true
		}
	}
	return false
}

func asksForAll(spec *v1.Container, c *Container) bool {
	if c.State != Exited {
		return false
	}
	rule, ok := podutil.FindMatchingContainerRestartRule(*spec, c.ExitCode)
	return ok && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// restartAll kills, without grace, and removes every init and app container when one has asked for it: apps, then init
// containers, then those that asked, so that a crash in between loses nothing. busy is true until all are gone.
func restartAll(pod *v1.Pod, seen *Observed, d *Decision) (busy bool) {
	if !RestartsAll(pod, seen) {
		return false
	}
	for key := range seen.InFlight {
		if strings.HasPrefix(key, startKey("")) {
			return true // it is not wanted any more; what it has made shows once it has ended
		}
	}
	for _, asked := range []bool{false, true} {
		for _, specs := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range specs {
				for j := range seen.Containers {
					c := &seen.Containers[j]
					if c.Name != specs[i].Name || asksForAll(&specs[i], c) != asked {
						continue
					}
					busy = true
					if c.State == Running || c.State == Unknown {
						d.add(KillContainer{ID: c.ID, Name: c.Name, Cause: AllRestart, Message: "killing"})
					} else {
						d.add(RemoveContainer{ID: c.ID, Name: c.Name})
					}
				}
			}
			if busy {
				return true
			}
		}
	}
	return busy
}
