package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap returns a logger that passes etcd's warnings and errors on to log, a level lower: etcd finds a fresh folder, and a
// socket without TLS, remarkable. What it says below that is several lines a second while it starts. Nothing is passed on
// while quiet is set.
//
// etcd ends the process when it cannot write. Here it ends itself alone, which end then tells.
func newZap(log *slog.Logger, quiet *atomic.Bool, end *end) *zap.Logger {
	return zap.New(&slogCore{log: log.With("component", "etcd"), quiet: quiet}, zap.WithFatalHook(end), zap.WithPanicHook(end))
}

// end is that of an etcd that has given up: it answers no more, nor can it be closed.
type end struct {
	once   sync.Once
	done   chan struct{}
	reason error // once done is closed
}

// OnWrite comes after an entry by which etcd gives up. What follows the entry must never run, so its goroutine stays.
func (n *end) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	n.once.Do(func() {
		n.reason = errors.New(e.Message)
		for _, f := range fields {
			if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
				n.reason = fmt.Errorf("%s: %w", e.Message, cause)
			}
		}
		close(n.done)
	})
	select {}
}

type slogCore struct {
	log    *slog.Logger
	quiet  *atomic.Bool
	fields []zapcore.Field
}

// A panic or exit follows on anything above an error.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return l > zapcore.ErrorLevel || l >= zapcore.WarnLevel && !c.quiet.Load()
}

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{c.log, c.quiet, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	// A fresh folder has no storage version yet; etcd tries again four seconds later.
	if !c.Enabled(e.Level) || e.Message == "failed to update storage version" {
		return ce
	}
	return ce.AddCore(e, c)
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields))
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelDebug
	if e.Level == zapcore.ErrorLevel { // what is above, the store tells as its end
		level = slog.LevelWarn
	}
	c.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}

func (c *slogCore) Sync() error { return nil }
