package kubeletapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// timestampOut has a fixed width, so that the lines of a log align.
const timestampOut = "2006-01-02T15:04:05.000000000Z07:00"

// maxLine bounds a line of a log file, in bytes. Engines split what a container prints well below.
const maxLine = 256 << 10

// errEnough says that the limit of bytes or of lines is reached.
var errEnough = errors.New("the limit of the log is reached")

// logOptions are v1.PodLogOptions made ready for use.
type logOptions struct {
	tail           int64 // lines of the file from its end; negative means all
	limit          int64 // bytes
	since          time.Time
	timestamps     bool
	follow         bool
	stdout, stderr bool
}

func newLogOptions(o *v1.PodLogOptions, now time.Time) logOptions {
	opts := logOptions{tail: -1, limit: math.MaxInt64, timestamps: o.Timestamps, follow: o.Follow, stdout: true, stderr: true}
	if o.TailLines != nil {
		opts.tail = *o.TailLines
	}
	if o.LimitBytes != nil {
		opts.limit = *o.LimitBytes
	}
	if o.SinceSeconds != nil {
		opts.since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	if o.SinceTime != nil && o.SinceTime.After(opts.since) {
		opts.since = o.SinceTime.Time
	}
	if o.Stream != nil {
		opts.stdout = *o.Stream != v1.LogStreamStderr
		opts.stderr = *o.Stream != v1.LogStreamStdout
	}
	return opts
}

// logFile reads one container's log in the format of CRI, lines of
//
//	2016-10-06T00:17:09.669794202Z stdout F what the container printed
//
// where P in place of F marks a piece of a longer line. It goes over to the new file when the log is
// rotated while it is followed.
type logFile struct {
	path    string
	opts    logOptions
	file    *os.File
	reader  *bufio.Reader
	watcher *fsnotify.Watcher // of the folder; nil unless following
	partial []byte            // of a line that is still being written
	inLine  bool              // the last piece did not end its line
	lines   int64             // of the file, still to be read
}

// openLog opens the log and finds the place to begin at.
func openLog(path string, opts logOptions) (*logFile, error) {
	l := &logFile{path: path, opts: opts, lines: math.MaxInt64}
	if opts.tail >= 0 && !opts.follow { // what is printed meanwhile is not asked for
		l.lines = opts.tail
	}
	var err error
	if opts.follow {
		// Watching begins before reading, so that no change falls in between.
		if l.watcher, err = fsnotify.NewWatcher(); err != nil {
			return nil, fmt.Errorf("cannot watch log file %q: %w", path, err)
		}
		if err := l.watcher.Add(filepath.Dir(path)); err != nil {
			l.close()
			return nil, fmt.Errorf("cannot watch log file %q: %w", path, err)
		}
	}
	if l.file, err = os.Open(path); err != nil {
		l.close()
		return nil, fmt.Errorf("failed to open log file %q: %w", path, err)
	}
	start, err := tailOffset(l.file, opts.tail)
	if err == nil {
		_, err = l.file.Seek(start, io.SeekStart)
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("failed to tail %d lines of log file %q: %w", opts.tail, path, err)
	}
	l.reader = bufio.NewReaderSize(l.file, maxLine)
	return l, nil
}

func (l *logFile) close() {
	if l.watcher != nil {
		_ = l.watcher.Close()
	}
	if l.file != nil {
		_ = l.file.Close()
	}
}

// copy writes the log to w, in large pieces where much is there. When following it goes on until exited is closed and the
// rest is read; else it ends with the file. It returns nil at the end and at a limit.
func (l *logFile) copy(ctx context.Context, w io.Writer, exited <-chan struct{}) error {
	out := bufio.NewWriterSize(w, 32<<10)
	for done := !l.opts.follow; ; {
		err := l.drain(out)
		if err == nil && done && len(l.partial) > 0 { // cut off by the end of the machine, for instance
			err = l.write(out, l.partial)
		}
		enough := errors.Is(err, errEnough)
		if err == nil || enough {
			err = out.Flush()
		}
		if err != nil || enough || done {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-exited: // perhaps just after a rotation
			done = true
		case err := <-l.watcher.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // only says that much has happened
				return fmt.Errorf("cannot watch log file %q: %w", l.path, err)
			}
		case <-l.watcher.Events:
		}
		if err := l.reopen(out); err != nil && !errors.Is(err, errEnough) { // drain finds that out again
			return err
		}
	}
}

// drain writes all complete lines that are there.
func (l *logFile) drain(w io.Writer) error {
	for {
		line, err := l.reader.ReadSlice('\n')
		if len(l.partial) > 0 || err != nil {
			l.partial = append(l.partial, line...)
			line = l.partial
		}
		switch {
		case errors.Is(err, io.EOF):
			if len(l.partial) > maxLine {
				return fmt.Errorf("a line of log file %q is too long", l.path)
			}
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("a line of log file %q is too long", l.path)
		case err != nil:
			return fmt.Errorf("failed to read log file %q: %w", l.path, err)
		}
		if err := l.write(w, line); err != nil {
			return err
		}
		l.partial = l.partial[:0]
	}
}

// reopen goes over to the new file if the log was rotated, after the rest of the old one.
func (l *logFile) reopen(w io.Writer) error {
	old, err := l.file.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the new one will come
	}
	if err != nil || os.SameFile(old, now) {
		return err
	}
	if err := l.drain(w); err != nil {
		return err
	}
	file, err := os.Open(l.path)
	if err != nil {
		return fmt.Errorf("failed to open log file %q: %w", l.path, err)
	}
	_ = l.file.Close()
	l.file, l.partial = file, nil
	l.reader.Reset(file)
	return nil
}

// write sends one line of the file on, if it is wanted. What cannot be parsed is left out.
func (l *logFile) write(w io.Writer, line []byte) error {
	if l.opts.limit <= 0 || l.lines <= 0 {
		return errEnough
	}
	stamp, rest, _ := bytes.Cut(line, []byte(" "))
	stream, rest, _ := bytes.Cut(rest, []byte(" "))
	tags, content, ok := bytes.Cut(rest, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok || err != nil {
		return nil
	}
	wanted := l.opts.stdout
	switch runtimeapi.LogStreamType(stream) {
	case runtimeapi.Stdout:
	case runtimeapi.Stderr:
		wanted = l.opts.stderr
	default:
		return nil
	}
	tag, _, _ := bytes.Cut(tags, []byte(runtimeapi.LogTagDelimiter))
	if runtimeapi.LogTag(tag) == runtimeapi.LogTagPartial {
		content = bytes.TrimSuffix(content, []byte("\n"))
	}
	// As the kubelet has it, lines that are left out count too.
	l.lines--
	begins := !l.inLine
	l.inLine = len(content) > 0 && content[len(content)-1] != '\n'
	if !wanted || at.Before(l.opts.since) {
		return nil
	}
	if l.opts.timestamps && begins {
		content = append([]byte(at.Format(timestampOut)+" "), content...)
	}
	content = content[:min(int64(len(content)), l.opts.limit)]
	l.opts.limit -= int64(len(content))
	if _, err := w.Write(content); err != nil {
		return err
	}
	if l.opts.limit <= 0 {
		return errEnough
	}
	return nil
}

// tailOffset returns where the last n lines begin. An unfinished line at the end does not count as one.
func tailOffset(f *os.File, n int64) (int64, error) {
	if n < 0 {
		return 0, nil
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := make([]byte, 16<<10)
	seen := int64(0) // line ends behind the current position
	for end := info.Size(); end > 0; {
		start := max(0, end-int64(len(block)))
		b := block[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] == '\n' {
				if seen == n {
					return start + int64(i) + 1, nil
				}
				seen++
			}
		}
		end = start
	}
	return 0, nil
}
