package status

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1defaults "k8s.io/kubernetes/pkg/apis/core/v1"
	"sigs.k8s.io/yaml"

	"peapod.dev/peapod/internal/agent/plan"
)

// bench is one Pod with what is seen of it and the status that was computed last.
type bench struct {
	begun, now time.Time
	pod        *v1.Pod
	in         Input
}

// TestScripts replays testdata/*.txt: `pod` makes a Pod, `seen` says what is observed of it from then on, `status` computes
// its status, which is the Pod's from then on. Run with -rewrite to write the outputs anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var b *bench
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := b.run(&b, d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
	})
}

func (b *bench) run(next **bench, d *datadriven.TestData) (string, error) {
	word := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	switch d.Cmd {
	case "pod": // the manifest
		b = &bench{begun: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), pod: &v1.Pod{}}
		*next, b.now = b, b.begun
		if err := yaml.UnmarshalStrict([]byte(d.Input), b.pod); err != nil {
			return "", err
		}
		corev1defaults.SetObjectDefaults_Pod(b.pod)
		b.pod.Generation = 1
		b.pod.Status.Phase = v1.PodPending
		b.in = Input{Seen: &plan.Observed{StartTime: b.now, Volumes: plan.Volumes{Ready: true}}, Old: b.pod.Status, HostIPs: []string{"192.0.2.1"}}
	case "seen": // lines, see (*bench).see; nothing is seen but what they say
		b.in.Seen = &plan.Observed{StartTime: b.begun, Volumes: plan.Volumes{Ready: true}, Failures: map[string]plan.Failure{}, InFlight: map[string]bool{}}
		for line := range strings.Lines(d.Input) {
			if err := b.see(strings.Fields(line)); err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
		}
	case "advance":
		step, err := time.ParseDuration(word(0))
		b.now = b.now.Add(step)
		return "", err
	case "spec": // the spec changes: a new generation
		b.pod.Generation++
	case "condition": // condition TYPE STATUS: somebody else's, in the API
		b.pod.Status.Conditions = append(b.pod.Status.Conditions, v1.PodCondition{Type: v1.PodConditionType(word(0)), Status: v1.ConditionStatus(word(1))})
	case "delete":
		at := metav1.NewTime(b.now)
		b.pod.DeletionTimestamp = &at
	case "restart-agent": // what is known is the API's
		b.in.Old, b.in.Finished = b.pod.Status, false
	case "status": // status [finished]: no container runs, and none ever will
		b.in.Finished = word(0) == "finished"
		b.in.Old = Compute(b.pod, b.in, b.now)
		b.pod.Status = b.in.Old
		return b.describe(), nil
	default:
		return "", fmt.Errorf("unknown command %s", d.Cmd)
	}
	return "", nil
}

// see takes one line of what is observed:
//
//	sandbox ready|gone
//	container NAME created|running|exited [code=N] [attempt=N] [reason=R] [unstarted] [unready] [hook] [old]
//	failure NAME REASON      why it was not started
//	starting NAME            its start is under way
//	ended REASON MESSAGE…    the agent has decided that the Pod fails
//	volumes                  are not ready yet
func (b *bench) see(words []string) error {
	seen := b.in.Seen
	switch words[0] {
	case "sandbox":
		seen.Sandboxes = []plan.Sandbox{{ID: "s", Ready: words[1] == "ready", IPs: []string{"10.88.0.2"}}}
	case "failure":
		seen.Failures[words[1]] = plan.Failure{Reason: words[2], Message: "because"}
	case "starting":
		seen.InFlight[plan.StartContainer{Name: words[1]}.Key()] = true
	case "ended":
		seen.Ended = &plan.End{Reason: words[1], Message: strings.Join(words[2:], " ")}
	case "volumes":
		seen.Volumes.Ready = false
	case "container":
		c := plan.Container{Name: words[1], SandboxID: "s", CreatedAt: b.begun, StartedAt: b.begun, PostStartDone: true}
		c.State = map[string]plan.State{"created": plan.Created, "running": plan.Running, "exited": plan.Exited, "unknown": plan.Unknown}[words[2]]
		running := c.State == plan.Running
		c.Probes = plan.Probes{Started: running, Ready: running}
		for _, w := range words[3:] {
			key, value, _ := strings.Cut(w, "=")
			number, _ := strconv.Atoi(value)
			switch key {
			case "code":
				c.ExitCode = int32(number)
			case "attempt":
				c.Attempt = number
			case "reason":
				c.Reason = value
			case "unstarted":
				c.Probes.Started = false
			case "unready":
				c.Probes.Ready = false
			case "hook":
				c.PostStartDone = false
			case "old": // made in a sandbox that is gone
				c.SandboxID = "before"
			default:
				return fmt.Errorf("unknown word %s", w)
			}
		}
		if c.State == plan.Exited {
			c.FinishedAt = b.now
			if c.Reason == "" {
				c.Reason = "Error"
				if c.ExitCode == 0 {
					c.Reason = "Completed"
				}
			}
		}
		c.ID = fmt.Sprintf("%s-%d", c.Name, c.Attempt)
		seen.Containers = append(seen.Containers, c)
	default:
		return fmt.Errorf("unknown word %s", words[0])
	}
	return nil
}

// describe prints a status for people and golden files.
func (b *bench) describe() string {
	var out strings.Builder
	s := &b.pod.Status
	fmt.Fprintf(&out, "%s", s.Phase)
	if s.Reason != "" || s.Message != "" {
		fmt.Fprintf(&out, " %s %q", s.Reason, s.Message)
	}
	fmt.Fprintf(&out, " ip=%s qos=%s generation=%d\n", s.PodIP, s.QOSClass, s.ObservedGeneration)
	for _, c := range s.Conditions {
		fmt.Fprintf(&out, "  %s=%s", c.Type, c.Status)
		if c.Reason != "" || c.Message != "" {
			fmt.Fprintf(&out, " %s %q", c.Reason, c.Message)
		}
		if at := c.LastTransitionTime.Sub(b.begun); at > 0 {
			fmt.Fprintf(&out, " since %s", at)
		}
		if c.ObservedGeneration > 1 {
			fmt.Fprintf(&out, " generation=%d", c.ObservedGeneration)
		}
		fmt.Fprintln(&out)
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&out, "%s: %s restarts=%d started=%t ready=%t", c.Name, describe(c.State), c.RestartCount, *c.Started, c.Ready)
			if c.LastTerminationState.Terminated != nil {
				fmt.Fprintf(&out, " last=%s", describe(c.LastTerminationState))
			}
			fmt.Fprintln(&out)
		}
	}
	return out.String()
}

func describe(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated(%d,%s)", s.Terminated.ExitCode, s.Terminated.Reason)
	}
	return fmt.Sprintf("waiting(%s)", s.Waiting.Reason)
}
