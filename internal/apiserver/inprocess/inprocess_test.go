package inprocess

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

func call(t *testing.T, h http.HandlerFunc, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/path?q=1", body)
	if err != nil {
		t.Fatal(err)
	}
	return (&Transport{Handler: h, User: &user.DefaultInfo{Name: "me"}}).RoundTrip(req)
}

func TestRequestAndResponse(t *testing.T) {
	resp, err := call(t, func(w http.ResponseWriter, r *http.Request) {
		got, _, _ := Authenticator().AuthenticateRequest(r)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X", "y")
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("Late", "ignored")
		fmt.Fprintf(w, "%s %s %s", got.User.GetName(), r.RequestURI, body)
	}, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "me /path?q=1 hello" {
		t.Errorf("body %q, error %v", body, err)
	}
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("X") != "y" || resp.Header.Get("Late") != "" {
		t.Errorf("got %v %v", resp.Status, resp.Header)
	}
}

func TestResponseStreamsUntilBodyIsClosed(t *testing.T) {
	ended := make(chan struct{})
	resp, err := call(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.(http.Flusher).Flush()
		fmt.Fprintln(w, "event")
		<-r.Context().Done()
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "event\n" {
		t.Errorf("got %q, %v", line, err)
	}
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the handler goes on")
	}
}

func TestCancelledBeforeTheHeader(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", nil)
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := (&Transport{Handler: h, User: &user.DefaultInfo{}}).RoundTrip(req); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestPanicAbortsTheResponse(t *testing.T) {
	if _, err := call(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil); err == nil {
		t.Error("no error")
	}
	resp, err := call(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half")
		panic(http.ErrAbortHandler)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a half response passes as a whole one")
	}
}

func TestNobodyElseIsAuthenticated(t *testing.T) {
	if _, ok, err := Authenticator().AuthenticateRequest(httptest.NewRequest(http.MethodGet, "/", nil)); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
}
