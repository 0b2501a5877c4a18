// Package record keeps what the engine must still know after its process has ended: small JSON files.
//
// A reader sees the old content or the new, never a mixture, whenever the writing process ends. What a power cut does
// is the caller's choice: Write alone is not durable, Sync makes what was written so.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"peapod.dev/peapod/internal/fault"
)

// Write replaces the file at path with v as JSON.
func Write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	return WriteFile(path, data, 0o600)
}

// WriteFile replaces the file at path with data.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		fault.Point("record beside")
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Read decodes the file at path into v.
func Read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot decode %s: %w", path, err)
	}
	return nil
}

// Sync returns when the file at path, and its name, would survive a power cut.
func Sync(path string) error {
	for _, p := range []string{path, filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Syncing is a Sync under way. The nil Syncing has ended well.
type Syncing struct {
	done chan struct{}
	err  error
}

// StartSync begins to Sync the file at path, beside other work.
func StartSync(path string) *Syncing {
	s := &Syncing{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = Sync(path)
	}()
	return s
}

// Wait returns the result.
func (s *Syncing) Wait() error {
	if s == nil {
		return nil
	}
	<-s.done
	return s.err
}
