package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/docker/go-units"
	"golang.org/x/term"

	"peapod.dev/peapod/internal/engine/image"
)

// pullProgress shows how far a pull is: a line that is written over on a terminal, else a line for each finished blob.
type pullProgress struct {
	out      io.Writer
	ref      string
	terminal bool
	width    int // of the line that is shown now
}

func newPullProgress(out io.Writer, ref string) *pullProgress {
	file, ok := out.(*os.File)
	return &pullProgress{out: out, ref: ref, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

func (p *pullProgress) show(now image.Progress) {
	complete, total := units.HumanSize(float64(now.Complete)), units.HumanSize(float64(now.Total))
	switch {
	case p.terminal:
		p.overwrite(fmt.Sprintf("pulling %s: %s of %s", p.ref, complete, total))
	case now.Done:
		fmt.Fprintf(p.out, "pulling %s: %s done, %s of %s\n", p.ref, shortID(now.Blob), complete, total)
	}
}

// end wipes the line that is shown, if any.
func (p *pullProgress) end() {
	if p.width > 0 {
		p.overwrite("")
		fmt.Fprint(p.out, "\r")
	}
}

func (p *pullProgress) overwrite(line string) {
	fmt.Fprintf(p.out, "\r%-*s", p.width, line)
	p.width = len(line)
}
