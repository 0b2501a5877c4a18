package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// run runs f in a loop of one worker, until test returns.
func run(t *testing.T, f Func[string], feed func(l *Loop[string]) informers.SharedInformerFactory, test func(l *Loop[string])) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := New("test", slog.New(slog.DiscardHandler), f)
		if feed != nil {
			shared := feed(l)
			shared.Start(ctx.Done())
			defer shared.Shutdown()
		}
		done := make(chan error)
		go func() { done <- l.Run(ctx, 1) }()
		synctest.Wait()
		test(l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRepeatsAfterAnError(t *testing.T) {
	var at []time.Duration
	var start time.Time
	run(t, func(context.Context, string) (time.Duration, error) {
		at = append(at, time.Since(start))
		if len(at) < 4 {
			return 0, errors.New("not yet")
		}
		return 0, nil
	}, nil, func(l *Loop[string]) {
		start = time.Now()
		l.Add("k")
		time.Sleep(time.Hour)
		if want := []time.Duration{0, first, 3 * first, 7 * first}; !slices.Equal(at, want) {
			t.Errorf("called at %v, want %v", at, want)
		}
	})
}

func TestCallsAgainWhenAsked(t *testing.T) {
	calls := 0
	run(t, func(context.Context, string) (time.Duration, error) {
		calls++
		return time.Minute, nil
	}, nil, func(l *Loop[string]) {
		l.Add("k")
		time.Sleep(150 * time.Second)
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestManyEventsAreOneCall(t *testing.T) {
	client := fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old"}})
	var keys []string
	run(t, func(_ context.Context, key string) (time.Duration, error) {
		keys = append(keys, key)
		time.Sleep(time.Second) // as a request would take
		return 0, nil
	}, func(l *Loop[string]) informers.SharedInformerFactory {
		shared := informers.NewSharedInformerFactory(client, 0)
		On(l, shared.Core().V1().Nodes().Informer(), func(before, after *v1.Node) {
			if after == nil {
				after = before
			}
			l.Add(after.Name)
		})
		return shared
	}, func(*Loop[string]) {
		nodes := client.CoreV1().Nodes()
		for _, value := range []string{"a", "b", "c"} {
			if _, err := nodes.Update(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old", Labels: map[string]string{"l": value}}}, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(5 * time.Second)
		if err := nodes.Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if want := []string{"old", "old", "old"}; !slices.Equal(keys, want) {
			t.Errorf("called for %q: want one call for the beginning, one for three changes, one for the end", keys)
		}
	})
}
