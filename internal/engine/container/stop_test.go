package container

import (
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"": unix.SIGTERM, "15": unix.SIGTERM, "SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "SIGNAL_SIGINT": unix.SIGINT,
		"SIGRTMIN+3": 37, "RTMIN": 34, "SIGNAL_SIGRTMINPLUS3": 37, "SIGRTMAX-2": 62, "SIGNAL_SIGRTMAXMINUS2": 62, "64": 64,
		"SIGNOPE": 0, "0": 0, "65": 0, "-1": 0, "SIGRTMIN+31": 0, "SIGRTMIN+x": 0, "SIGRTMAX+1": 0,
	} {
		if got, err := parseSignal(name); got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for value, name := range runtimeapi.Signal_name {
		if value == 0 {
			continue
		}
		if _, err := parseSignal(name); err != nil {
			t.Error(err)
		}
		if _, err := Signal(name); err != nil {
			t.Error(err)
		}
	}
	if s, err := Signal("SIGQUIT"); s != runtimeapi.Signal_SIGNAL_SIGQUIT {
		t.Errorf("%v, %v", s, err)
	}
}
