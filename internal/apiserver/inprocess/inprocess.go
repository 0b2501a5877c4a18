// Package inprocess calls an HTTP handler of this process as a given user, with no socket, TLS or HTTP encoding between.
//
// Invariant: the identity travels in the request's context, which nothing that arrives on a socket can set. So there is no
// credential that could leak.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

type userKey struct{}

// Authenticator knows the users of Transports. It has no opinion on any other request.
func Authenticator() authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		u, ok := r.Context().Value(userKey{}).(user.Info)
		if !ok {
			return nil, false, nil
		}
		return &authenticator.Response{User: u}, true, nil
	})
}

// Transport is an http.RoundTripper that calls a handler as User. It is safe for concurrent use. Connections cannot be
// hijacked, hence exec, attach and port-forward are not for it.
type Transport struct {
	Handler http.Handler
	User    user.Info
}

// RoundTrip returns when the handler has written the response's header; the body streams. The handler's context ends with
// the request's, or when the body is closed.
func (t *Transport) RoundTrip(in *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(context.WithValue(in.Context(), userKey{}, t.User))
	req := in.Clone(ctx)
	req.RequestURI = in.URL.RequestURI()
	req.RemoteAddr = "127.0.0.1:0" // the handler's idea of where clients are
	if req.Host == "" {
		req.Host = in.URL.Host
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1

	pr, pw := io.Pipe()
	w := &responseWriter{pipe: pw, header: http.Header{}, started: make(chan struct{})}
	go func() {
		defer cancel()
		defer req.Body.Close()
		defer w.finish()
		t.Handler.ServeHTTP(w, req)
	}()

	select {
	case <-w.started:
	case <-in.Context().Done():
		cancel()
		pr.CloseWithError(in.Context().Err())
		return nil, in.Context().Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         req.Proto,
		ProtoMajor:    req.ProtoMajor,
		ProtoMinor:    req.ProtoMinor,
		Header:        w.sent,
		Body:          &body{PipeReader: pr, cancel: cancel},
		ContentLength: -1,
		Request:       in,
	}, nil
}

// body ends the handler's context when it is closed, so that a watch does not outlive its reader.
type body struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *body) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// responseWriter belongs to the handler; status, sent and err may be read once started is closed.
type responseWriter struct {
	pipe    *io.PipeWriter
	header  http.Header
	once    sync.Once
	started chan struct{}

	status int
	sent   http.Header
	err    error
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if status < http.StatusOK { // informational, more to come
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(p)
}

// Flush has nothing to do beyond the header: a write returns when it has been read.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify makes this an http.CloseNotifier, without which upstream's filters would hide Flush. Nobody receives from it:
// handlers look at the request's context.
func (w *responseWriter) CloseNotify() <-chan bool { return nil }

// finish is deferred around the handler. A panic aborts the response, as net/http does.
func (w *responseWriter) finish() {
	var err error
	if r := recover(); r != nil {
		err = errors.New("response aborted")
		if r != http.ErrAbortHandler {
			slog.Error("panic while serving a request in process", "panic", r, "stack", string(debug.Stack()))
		}
		w.once.Do(func() {
			w.err = err
			close(w.started)
		})
	}
	w.WriteHeader(http.StatusOK)
	w.pipe.CloseWithError(err)
}
