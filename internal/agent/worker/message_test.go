package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var log, lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, "2030-01-01T00:00:00.000000000Z stdout F line %d\n", i)
		if i >= 20 {
			fmt.Fprintf(&lines, "line %d\n", i)
		}
	}
	long := strings.Repeat("x", 3000)
	logFile := write("log", log.String())
	longLog := write("longlog", "2030-01-01T00:00:00.000000000Z stdout F "+long+"\n")
	for name, c := range map[string]struct {
		file, log, policy, reason string
		code                      int32
		want                      string
	}{
		"the file":                {file: write("a", "why"), log: logFile, policy: "File", code: 1, want: "why"},
		"its last 4 KiB":          {file: write("b", "head"+strings.Repeat("t", 4096)), policy: "File", want: strings.Repeat("t", 4096)},
		"nothing":                 {file: write("c", ""), log: logFile, policy: "File", code: 1},
		"the log's last 80 lines": {file: write("d", ""), log: logFile, policy: "FallbackToLogsOnError", code: 1, want: lines.String()},
		"the log's last 2 KiB":    {log: longLog, policy: "FallbackToLogsOnError", code: 1, want: (long + "\n")[3001-2048:]},
		"no log of a success":     {log: logFile, policy: "FallbackToLogsOnError"},
		"no log where none is":    {log: logFile, policy: "FallbackToLogsOnError", code: 128, reason: "ContainerCannotRun"},
		"file before log":         {file: write("e", "why"), log: logFile, policy: "FallbackToLogsOnError", code: 1, want: "why"},
	} {
		s := &runtimeapi.ContainerStatus{
			LogPath: c.log, ExitCode: c.code, Reason: c.reason,
			Annotations: map[string]string{messagePathKey: "/dev/termination-log", policyKey: c.policy},
		}
		if c.file != "" {
			s.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/termination-log", HostPath: c.file}}
		}
		if got := lastWords(s); got != c.want {
			t.Errorf("%s: got %.40q… (%d bytes), want %.40q… (%d bytes)", name, got, len(got), c.want, len(c.want))
		}
	}
}

func TestPullReason(t *testing.T) {
	for message, want := range map[string][2]string{
		"manifest unknown":                        {"ErrImagePull", "manifest unknown"},
		"RegistryUnavailable: no route":           {"RegistryUnavailable", "image pull failed for x because the registry is unavailable: no route"},
		"SignatureValidationFailed: key mismatch": {"SignatureValidationFailed", "image pull failed for x because the signature validation failed: key mismatch"},
	} {
		if reason, told := pullReason("x", message); reason != want[0] || told != want[1] {
			t.Errorf("%s: got %s, %s", message, reason, told)
		}
	}
}
