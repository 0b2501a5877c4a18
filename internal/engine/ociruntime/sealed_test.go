package ociruntime

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

func TestSealedProgramRuns(t *testing.T) {
	path, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	r := New("true", path, t.TempDir(), nil)
	if r.Program() == path {
		t.Fatal("the program was not sealed")
	}
	cmd := exec.Command(r.Program())
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Program(), []byte("changed"), 0); err == nil {
		t.Error("the sealed program can be changed")
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(r.Program()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the sealed program is not the program: %v", err)
	}
}

func TestLargeProgramIsNotSealed(t *testing.T) {
	path := t.TempDir() + "/large"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(maxSealed + 1); err != nil {
		t.Fatal(err)
	}
	if p := New("large", path, "", nil).Program(); p != path {
		t.Errorf("the program is run as %s", p)
	}
}
