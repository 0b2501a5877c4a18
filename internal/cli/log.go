package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// newLogger logs to standard error. Upstream's own loggers are joined to it, with warnings and errors alone:
// what they say at the level of information is of how, not of what.
func newLogger(verbose bool) *slog.Logger {
	level, theirs := slog.LevelInfo, slog.LevelWarn
	if verbose {
		level, theirs = slog.LevelDebug, slog.LevelInfo
	}
	joinUpstream(&slog.HandlerOptions{Level: theirs}, os.Stderr)
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// quietLogger drops everything, upstream's logs included: for verbs whose output is the user's own.
func quietLogger() *slog.Logger {
	joinUpstream(nil, io.Discard)
	logrus.SetOutput(io.Discard)
	return slog.New(slog.DiscardHandler)
}

func joinUpstream(options *slog.HandlerOptions, to io.Writer) {
	klog.SetSlogLogger(slog.New(partings{slog.NewTextHandler(to, options)}))
	logrus.SetLevel(logrus.WarnLevel)
}

// partings drops what upstream's server logs as errors when a client has just gone: that is how a watch or a
// stream ends.
type partings struct{ slog.Handler }

var goneClient = []string{"use of closed network connection", "http2: stream closed", "context canceled", "connection reset by peer", "broken pipe"}

func (h partings) Handle(ctx context.Context, r slog.Record) error {
	gone := isParting(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		gone = gone || isParting(a.Value.String())
		return !gone
	})
	if gone {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h partings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return partings{h.Handler.WithAttrs(attrs)}
}
func (h partings) WithGroup(name string) slog.Handler { return partings{h.Handler.WithGroup(name)} }

func isParting(s string) bool {
	for _, g := range goneClient {
		if strings.Contains(s, g) {
			return true
		}
	}
	return false
}
