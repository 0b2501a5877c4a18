package kubeletapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/cri-client/pkg/logs"
)

const sample = `2024-01-01T00:00:01.5Z stdout F one
2024-01-01T00:00:02Z stderr F two
2024-01-01T00:00:03Z stdout P thr
2024-01-01T00:00:03Z stdout F ee
this is not a line of a log
2024-01-01T00:00:04Z stdout F four
`

func TestServeLogs(t *testing.T) {
	b := start(t)
	if err := os.WriteFile(b.engine.logPath, []byte(sample+"2024-01-01T00:00:05Z stdout F cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path string
		code int
		body string
	}{
		{"app", 200, "one\ntwo\nthree\nfour\ncut"},
		{"app?tailLines=1", 200, "four\n"}, // as upstream, which finds the beginning by complete lines and counts all
		{"app?tailLines=0", 200, ""},
		{"app?tail=all", 200, "one\ntwo\nthree\nfour\ncut"},
		{"app?limitBytes=6", 200, "one\ntw"},
		{"app?sinceTime=2024-01-01T00:00:03Z", 200, "three\nfour\ncut"},
		{"app?sinceSeconds=10", 200, ""},
		{"app?stream=Stderr", 200, "two\n"},
		{"app?timestamps=true&tailLines=5", 200, "2024-01-01T00:00:02.000000000Z two\n2024-01-01T00:00:03.000000000Z three\n2024-01-01T00:00:04.000000000Z four\n2024-01-01T00:00:05.000000000Z cut"},
		{"app?sinceTime=2024-01-01T00:00:03Z&tailLines=4", 200, "three\nfour\ncut"},
		{"app?tailLines=-1", 422, `{"message": "Invalid request."}`},
		{"app?tailLines=x", 400, `{"message": "Unable to decode query."}`},
		{"app?previous=true", 400, `previous terminated container "app" in pod "web" not found`},
		{"late", 400, `container "late" in pod "web" is waiting to start: ContainerCreating`},
		{"nope", 404, `container "nope" not found in pod "web"`},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			code, body := b.call(t, b.config, "GET", "/containerLogs/default/web/"+tt.path)
			if code != tt.code || body != tt.body {
				t.Errorf("%d %q, want %d %q", code, body, tt.code, tt.body)
			}
		})
	}
	if code, body := b.call(t, b.config, "GET", "/containerLogs/default/nope/app"); code != 404 || body != `pod "nope" does not exist` {
		t.Errorf("%d %q", code, body)
	}
	b.pod.Status.ContainerStatuses[0].ContainerID = "peapod://c9"
	if code, body := b.call(t, b.config, "GET", "/containerLogs/default/web/app"); code != 400 || body != "unable to retrieve container logs for peapod://c9" {
		t.Errorf("%d %q", code, body)
	}
}

func TestFollowEndsWithTheContainer(t *testing.T) {
	b := start(t)
	log, err := os.Create(b.engine.logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	client, err := rest.HTTPClientFor(b.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.config.Host+"/containerLogs/default/web/app?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req) // answers although there is not a line yet
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Fprint(log, "2024-01-01T00:00:01Z stdout F one\n2024-01-01T00:00:02Z std")
	buffer := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, buffer); err != nil || string(buffer) != "one\n" {
		t.Fatalf("%q %v", buffer, err)
	}
	fmt.Fprint(log, "out F two\n")
	begin := time.Now()
	close(b.exited)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "two\n" {
		t.Errorf("%q %v", rest, err)
	}
	if d := time.Since(begin); d > 500*time.Millisecond {
		t.Errorf("it took %v to notice the end", d)
	}
}

// upstream reads the same logs as we do, for comparison.
func upstream(t *testing.T, path string, o *v1.PodLogOptions) (string, error) {
	t.Helper()
	var out bytes.Buffer
	opts := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Timestamp: o.Timestamps}
	if o.SinceTime != nil {
		opts.Since = o.SinceTime.Time
	}
	stdout, stderr := io.Writer(&out), io.Writer(&out)
	if o.Stream != nil && *o.Stream == v1.LogStreamStdout {
		stderr = nil
	}
	if o.Stream != nil && *o.Stream == v1.LogStreamStderr {
		stdout = nil
	}
	err := logs.ReadLogs(t.Context(), path, "", opts, nil, stdout, stderr)
	return out.String(), err
}

// TestAsUpstream reads random logs with random options by both implementations.
func TestAsUpstream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	random := rand.New(rand.NewPCG(1, 2))
	begin := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for range 1000 {
		log := "2024-01-01T00:00:00Z stdout F first\n"
		n := random.IntN(8)
		for i := range n {
			at := begin.Add(time.Duration(i)*time.Second + time.Duration(random.IntN(2e9))).Format(time.RFC3339Nano)
			content := pick("", "x", "some text", "with  spaces ", "\xff\x00\x01", strings.Repeat("long", 5000))
			end := "\n"
			if i == n-1 {
				end = pick("\n", "\n", "")
			}
			log += pick(at, at, at, at, at, "not a time") + pick(" ", " ", " ", " ", "") + pick("stdout", "stderr", "stdout", "stderr", "other") + " " + pick("F", "F", "P", "F:x", "P:y") + " " + content + end
		}
		if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		o := &v1.PodLogOptions{Timestamps: random.IntN(2) == 0}
		if random.IntN(2) == 0 {
			o.TailLines = new(random.Int64N(8))
		}
		if random.IntN(3) == 0 {
			o.LimitBytes = new(1 + random.Int64N(60))
		}
		if random.IntN(3) == 0 {
			o.SinceTime = &metav1.Time{Time: begin.Add(time.Duration(random.IntN(8)) * time.Second)}
		}
		if random.IntN(3) == 0 {
			o.Stream = new(pick(v1.LogStreamStdout, v1.LogStreamStderr, v1.LogStreamAll))
		}
		l, err := openLog(path, newLogOptions(o, time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := l.copy(t.Context(), &out, nil); err != nil {
			t.Fatal(err)
		}
		l.close()
		want, err := upstream(t, path, o)
		if err != nil && strings.Contains(err.Error(), "unsupported log format") {
			continue // it gives up where the first line that it reads is none
		}
		if err != nil || out.String() != want {
			t.Fatalf("%v\n%q\ngives %q\nupstream %q, %v", o, log, out.String(), want, err)
		}
	}
}

// pipe hands over what is written piece by piece.
type pipe chan string

func (p pipe) Write(b []byte) (int, error) { p <- string(b); return len(b), nil }

func (p pipe) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-p:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no %q", want)
	}
}

func TestFollowRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	old, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	log, err := openLog(path, newLogOptions(&v1.PodLogOptions{Follow: true}, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	out, exited, done := make(pipe), make(chan struct{}), make(chan error, 1)
	go func() { done <- log.copy(t.Context(), out, exited) }()
	fmt.Fprint(old, "2024-01-01T00:00:01Z stdout F one\n")
	out.want(t, "one\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(old, "2024-01-01T00:00:01Z stdout F last of the old\n")
	out.want(t, "last of the old\n")
	if err := os.WriteFile(path, []byte("2024-01-01T00:00:02Z stdout F first of the new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.want(t, "first of the new\n")
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("2024-01-01T00:00:03Z stdout F last words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	close(exited)
	out.want(t, "last words\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowStopsAtTheLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := int64(5)
	log, err := openLog(path, newLogOptions(&v1.PodLogOptions{Follow: true, LimitBytes: &limit}, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	var out bytes.Buffer
	if err := log.copy(t.Context(), &out, make(chan struct{})); err != nil || out.String() != "one\nt" {
		t.Errorf("%q %v", out.String(), err)
	}
}

func TestLoggedContainer(t *testing.T) {
	ended := func(id string) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: id}}
	}
	waiting := func(reason string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	tests := []struct {
		name        string
		state, last v1.ContainerState
		previous    bool
		id, err     string
	}{
		{name: "running", state: running, last: ended("p://old"), id: "p://now"},
		{name: "previous", state: running, last: ended("p://old"), previous: true, id: "p://old"},
		{name: "no previous", state: running, previous: true, err: `previous terminated container "c" in pod "p" not found`},
		{name: "ended", state: ended("p://end"), id: "p://end"},
		{name: "ended before it began", state: ended(""), last: ended("p://old"), id: "p://old"},
		{name: "ended without any", state: ended(""), err: `container "c" in pod "p" is terminated`},
		{name: "back-off", state: waiting("CrashLoopBackOff"), last: ended("p://old"), id: "p://old"},
		{name: "image", state: waiting("ErrImagePull"), err: `container "c" in pod "p" is waiting to start: image can't be pulled`},
		{name: "image back-off", state: waiting("ImagePullBackOff"), err: `container "c" in pod "p" is waiting to start: trying and failing to pull image`},
		{name: "init", state: waiting("PodInitializing"), err: `container "c" in pod "p" is waiting to start: PodInitializing`},
		{name: "nothing", err: `container "c" in pod "p" is waiting to start - no logs yet`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &v1.Pod{Status: v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{{Name: "c", ContainerID: "p://now", State: tt.state, LastTerminationState: tt.last}}}}
			pod.Name = "p"
			id, err := loggedContainer(pod, "c", tt.previous)
			if id != tt.id || (err != nil) != (tt.err != "") || err != nil && err.Error() != tt.err {
				t.Errorf("%q, %v; want %q, %q", id, err, tt.id, tt.err)
			}
		})
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte(sample), int64(2))
	f.Add([]byte("2024-01-01T00:00:03Z stdout P \n\n"), int64(0))
	f.Fuzz(func(t *testing.T, content []byte, tail int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := openLog(path, logOptions{tail: tail, limit: math.MaxInt64, stdout: true, stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		defer log.close()
		var out strings.Builder
		if err := log.copy(t.Context(), &out, nil); err != nil {
			t.Fatal(err)
		}
		if out.Len() > len(content) {
			t.Errorf("%d bytes from %d", out.Len(), len(content))
		}
	})
}
