package sandbox

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"peapod.dev/peapod/internal/engine/ociruntime"
	"peapod.dev/peapod/internal/engine/record"
)

// A power cut leaves the record, which is durable, and of the status nothing or an empty file.
func TestLoadWithoutStatus(t *testing.T) {
	for _, c := range []struct {
		name     string
		empty    bool // a status.json without content
		sameBoot bool // the run folder is there
		want     error
	}{
		{name: "power cut, status missing"},
		{name: "power cut, status empty", empty: true},
		{name: "making interrupted", sameBoot: true, want: ErrIncomplete},
		{name: "damaged", empty: true, sameBoot: true},
	} {
		env := &Environment{Root: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
		dir := filepath.Join(env.Root, "id")
		err := os.Mkdir(dir, 0o700)
		err = errors.Join(err, record.Write(filepath.Join(dir, "sandbox.json"), Record{ID: "id"}))
		if c.empty {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "status.json"), nil, 0o600))
		}
		if c.sameBoot {
			err = errors.Join(err, os.Mkdir(filepath.Join(env.Run, "id"), 0o700))
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := Load(env, "id", func(string) *ociruntime.Runtime { return nil })
		if !errors.Is(err, c.want) || s.ID != "id" || s.Ready() {
			t.Errorf("%s: %v, ready %v; want %v", c.name, err, s.Ready(), c.want)
		}
	}
}
