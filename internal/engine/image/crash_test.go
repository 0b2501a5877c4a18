package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	crashFolder  = "PEAPOD_TEST_CRASH_FOLDER" // set for the child that is killed
	crashArchive = "PEAPOD_TEST_CRASH_ARCHIVE"
	crashIDs     = 4
)

// crash works on a storage until it is killed, a line of output a step.
func crash() error {
	folder := os.Getenv(crashFolder)
	s, err := Open(Config{Root: filepath.Join(folder, "root"), RunRoot: filepath.Join(folder, "run"), Owner: "test"})
	if err != nil {
		return err
	}
	img, err := s.Get("kept")
	if err != nil {
		return err
	}
	step := func(err error) error {
		fmt.Println("step")
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("c%d", i%crashIDs)
		err := step(s.CreateRootfs(id, img))
		_, mountErr := s.MountRootfs(id)
		err = errors.Join(err, step(mountErr))
		if i%2 == 1 {
			err = errors.Join(err, step(s.DeleteRootfs(id)))
		}
		_, loadErr := s.Load(context.Background(), os.Getenv(crashArchive), nil)
		if err = errors.Join(err, step(loadErr), step(s.Remove("app"))); err != nil {
			return err
		}
	}
}

// A kill at any step leaves a storage that works and can be cleaned.
func TestKilled(t *testing.T) {
	openStore(t) // skips without root, sets the environment
	folder := t.TempDir()
	archive := writeDockerArchive(t, map[string]v1.Image{"app": makeImage(t, "bottom", "top")})
	s := openAt(t, folder, "test")
	img := mustLoad(t, s, "kept", makeImage(t, "kept"))
	if _, err := s.MountImage("first", img); err != nil { // lets the library find out once what the kernel can do
		t.Fatal(err)
	}
	if err := s.UnmountImage("first"); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s)
	for steps := 1; steps < 24; steps += 3 {
		killAfter(t, steps, folder, archive)
		if err := s.sweepScratch(); err != nil {
			t.Fatal(err)
		}
		for i := range crashIDs {
			id := fmt.Sprintf("c%d", i)
			err := s.CreateRootfs(id, img)
			path, mountErr := s.MountRootfs(id)
			if err := errors.Join(err, mountErr); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(path, "kept")); err != nil {
				t.Error(err)
			}
			if err := s.DeleteRootfs(id); err != nil {
				t.Error(err)
			}
		}
		// What a half load left is taken up by the next one, and goes with its image.
		if _, err := s.Load(t.Context(), archive, nil); err != nil {
			t.Error(err)
		}
		if err := s.Remove("app"); err != nil {
			t.Error(err)
		}
		if err := s.closeOverlays(); err != nil {
			t.Error(err)
		}
		if after := tree(t, s); fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatalf("after a kill at step %d:\n%q\n%q", steps, before, after)
		}
	}
}

// killAfter runs crash in a process of its own and kills it some time after so many steps.
func killAfter(t *testing.T, steps int, folder, archive string) {
	t.Helper()
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), crashFolder+"="+folder, crashArchive+"="+archive)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range steps {
		if !lines.Scan() {
			t.Errorf("the child ended by itself: %v", lines.Err())
			break
		}
	}
	_ = child.Process.Kill()
	_ = child.Wait() // says that it was killed
}
