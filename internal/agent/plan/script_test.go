package plan_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"

	"peapod.dev/peapod/internal/agent/plan"
)

// TestScripts replays testdata/*.txt against the model. Run with -rewrite to write the outputs anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var m *model
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			arg := func(i int) string {
				if i >= len(d.CmdArgs) {
					d.Fatalf(t, "%s needs %d arguments", d.Cmd, i+1)
				}
				return d.CmdArgs[i].Key
			}
			number := func(key string, otherwise int64) int64 {
				for _, a := range d.CmdArgs {
					if a.Key == key {
						n, err := strconv.ParseInt(a.Vals[0], 10, 64)
						if err != nil {
							d.Fatalf(t, "%v", err)
						}
						return n
					}
				}
				return otherwise
			}
			switch d.Cmd {
			case "pod": // the manifest of the Pod
				var err error
				if m, err = newModel(d.Input); err != nil {
					d.Fatalf(t, "%v", err)
				}
			case "plan": // what is wanted now, without doing it
				var out strings.Builder
				for _, a := range m.plan().Actions {
					fmt.Fprintln(&out, a)
				}
				return out.String()
			case "stabilize": // do what is wanted until nothing is
				return m.stabilize()
			case "status":
				m.plan()
				return m.describe()
			case "exit": // exit NAME code=N
				m.exit(arg(0), int32(number("code", 0)))
			case "advance": // advance DURATION
				step, err := time.ParseDuration(arg(0))
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				m.now = m.now.Add(step)
			case "delete": // delete grace=N
				m.remove(number("grace", 30))
			case "deadline": // deadline SECONDS: activeDeadlineSeconds is changed
				m.pod.Spec.ActiveDeadlineSeconds = new(number("seconds", 0))
			case "reject": // reject REASON: the node refuses the Pod
				m.seen.Ended = &plan.End{Reason: arg(0)}
			case "end": // end REASON grace=N: the node evicts the Pod, or shuts down
				grace := number("grace", 30)
				m.seen.Ended = &plan.End{Reason: arg(0), Grace: &grace}
			case "gone":
				m.seen.Gone = true
			case "probe": // probe NAME started|ready|unready|liveness-failed|startup-failed
				c := m.seen.Latest(arg(0))
				switch arg(1) {
				case "started":
					c.Probes.Started = true
				case "ready":
					c.Probes.Ready = true
				case "unready":
					c.Probes.Ready = false
				case "liveness-failed":
					c.Probes.LivenessFailed = true
				case "startup-failed":
					c.Probes.StartupFailed = true
				}
			case "slow": // hooks and kills take until `hook` and `exit` say otherwise
				m.slow = true
			case "debug": // debug NAME: kubectl debug adds an ephemeral container
				m.pod.Spec.EphemeralContainers = append(m.pod.Spec.EphemeralContainers,
					v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: arg(0), Image: "busybox"}})
			case "longest-back-off": // longest-back-off DURATION: what the node was told
				longest, err := time.ParseDuration(arg(0))
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				m.max = longest
			case "crash-loop": // crash-loop NAME N: it ends N times, each as soon as it was started again; prints the back-offs
				n, err := strconv.Atoi(arg(1))
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				var delays []string
				for range n {
					m.exit(arg(0), 1)
					begun := m.now
					for range 400 {
						if m.stabilize(); m.seen.Latest(arg(0)).State == plan.Running {
							break
						}
						m.now = m.now.Add(time.Second)
					}
					delays = append(delays, m.now.Sub(begun).String())
				}
				return strings.Join(delays, " ")
			case "lose": // lose NAME: the engine cannot tell its state
				m.seen.Latest(arg(0)).State = plan.Unknown
			case "hook": // hook NAME [failed]: its postStart hook returns
				failed := len(d.CmdArgs) > 1
				m.seen.Latest(arg(0)).PostStartDone, m.seen.Latest(arg(0)).PostStartFailed = !failed, failed
				delete(m.seen.InFlight, "start "+arg(0))
			case "prestop": // prestop NAME: its preStop hook returns
				m.preStopped(m.seen.Latest(arg(0)).ID)
			case "resize": // resize NAME cpu|memory: the spec wants another limit
				m.seen.Latest(arg(0)).Resize = &plan.Resize{CPU: arg(1) == "cpu", Memory: arg(1) == "memory"}
			case "resize-pod": // the Pod as a whole has been granted other limits
				m.seen.PodResize = true
			case "resize-fails": // the last attempt has just failed
				m.seen.ResizeFailed = m.now
				m.seen.ResizeInProgress = &v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, Reason: v1.PodReasonError}
			case "pending": // pending REASON: the node does not grant what the spec asks for
				m.seen.ResizePending = &v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: arg(0)}
			case "refuse": // refuse REASON: containers cannot be created; without a reason they can
				m.refuse = ""
				if len(d.CmdArgs) > 0 {
					m.refuse = arg(0)
				}
			case "volumes-fail": // set-up has just failed
				m.seen.Volumes = plan.Volumes{Failed: m.now, Delay: m.seen.Volumes.NextDelay()}
			case "pull-fails": // pull-fails NAME: the image cannot be pulled for 10 s
				m.seen.Images[arg(0)] = plan.Image{Failed: m.now, Retry: m.now.Add(plan.BackoffBase), Delay: plan.BackoffBase}
				m.seen.Failures[arg(0)] = plan.Failure{Reason: "ErrImagePull", At: m.now}
			case "crash-agent":
				m.crash()
			case "vanish": // the engine has forgotten all, or with a NAME that container
				if len(d.CmdArgs) == 0 {
					m.seen.Sandboxes = nil
				}
				m.seen.Containers = slices.DeleteFunc(slices.Clone(m.seen.Containers), func(c plan.Container) bool {
					return len(d.CmdArgs) == 0 || c.Name == arg(0)
				})
			case "lose-sandbox": // its network namespace is gone, its containers live
				m.seen.Sandboxes[0].Ready = false
			case "reboot":
				m.reboot()
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			return ""
		})
	})
}
