package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLoggedAttempts(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		want  uint32
	}{
		{"no folder", nil, 0},
		{"one", []string{"0.log"}, 1},
		{"several, one rotated", []string{"2.log.20261123-140000.gz", "0.log", "1.log"}, 3},
		{"others", []string{"7.txt", "x.log", "-1.log", "99999999999.log"}, 0},
	} {
		dir := filepath.Join(t.TempDir(), "app")
		for _, f := range c.files {
			write(t, filepath.Join(dir, f))
		}
		if got, err := loggedAttempts(dir); got != c.want || err != nil {
			t.Errorf("%s: %d, %v; want %d", c.name, got, err, c.want)
		}
	}
}

func TestSwapAccounting(t *testing.T) {
	v2, v1 := t.TempDir(), t.TempDir()
	write(t, filepath.Join(v2, "peapod-1", "memory.swap.max"))
	write(t, filepath.Join(v1, "memory", "memory.memsw.limit_in_bytes"))
	for _, c := range []struct {
		name, tree string
		v2, want   bool
	}{
		{"version 2", v2, true, true},
		{"version 2 without", t.TempDir(), true, false},
		{"version 1", v1, false, true},
		{"version 1 without", v2, false, false},
	} {
		if got := swapAccounting(c.tree, "/peapod-1", c.v2); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
