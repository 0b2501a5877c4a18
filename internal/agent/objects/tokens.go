package objects

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	maxTokenAge    = 24 * time.Hour   // renewed at this age at the latest, as the kubelet does
	tokenJitter    = 10 * time.Second // spreads renewals, as the kubelet does
	tokenRetry     = 10 * time.Second // between renewals that fail while the token is still good
	requestTimeout = 10 * time.Second
	// raceWindow is how long a refusal may only mean that the API server's own caches have not seen the Pod's binding.
	// On a busy machine they lag far behind the watch that has told the agent.
	raceWindow = 3 * time.Second
	racePause  = 50 * time.Millisecond // the longest between two tries
)

// Tokens keeps the service account tokens of this node's Pods and renews them after 80 % of their life
// (pkg/kubelet/token). Tokens are never logged. Safe for concurrent use.
type Tokens struct {
	client  kubernetes.Interface
	changed func([]types.UID)
	log     *slog.Logger

	mu     sync.Mutex
	closed bool
	byPod  map[types.UID]map[tokenKey]*token
	wg     sync.WaitGroup
}

type tokenKey struct {
	account, audience string
	expiration        int64 // s; 0: the API server's default
}

// token is guarded by Tokens.mu.
type token struct {
	value            string
	expires, renewal time.Time
	err              error         // why the last request failed
	pending          chan struct{} // not nil while a request is under way; closed at its end
	cancel           context.CancelFunc
	timer            *time.Timer // fires at renewal
}

func newTokens(config Config) *Tokens {
	return &Tokens{client: config.Client, changed: config.Changed, log: config.Log, byPod: map[types.UID]map[tokenKey]*token{}}
}

// Token returns a token for the Pod's service account, bound to the Pod. One that is not yet due for renewal comes from
// memory; a failed renewal gives the old one as long as it is valid. Concurrent calls share one request.
func (t *Tokens) Token(ctx context.Context, pod *v1.Pod, projection *v1.ServiceAccountTokenProjection) (string, error) {
	tok, pending, err := t.request(pod, projection)
	if err != nil {
		return "", err
	}
	if pending != nil {
		select {
		case <-pending:
		case <-ctx.Done():
			return "", fmt.Errorf("failed to fetch token: %w", context.Cause(ctx))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tok.value == "" || !time.Now().Before(tok.expires) {
		return "", fmt.Errorf("failed to fetch token: %w", tok.err)
	}
	return tok.value, nil
}

// Prefetch asks for all tokens that pod's volumes hold, without waiting for the answers.
func (t *Tokens) Prefetch(pod *v1.Pod) {
	for i := range pod.Spec.Volumes {
		if projected := pod.Spec.Volumes[i].Projected; projected != nil {
			for _, source := range projected.Sources {
				if source.ServiceAccountToken != nil {
					_, _, _ = t.request(pod, source.ServiceAccountToken) // the error comes again with the wait
				}
			}
		}
	}
}

// request makes sure that a token is there or on its way; pending is nil in the first case.
func (t *Tokens) request(pod *v1.Pod, projection *v1.ServiceAccountTokenProjection) (tok *token, pending <-chan struct{}, err error) {
	k := tokenKey{account: pod.Spec.ServiceAccountName, audience: projection.Audience}
	if projection.ExpirationSeconds != nil {
		k.expiration = *projection.ExpirationSeconds
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, fmt.Errorf("failed to fetch token: %w", context.Canceled)
	}
	tokens := t.byPod[pod.UID]
	if tokens == nil {
		tokens = map[tokenKey]*token{}
		t.byPod[pod.UID] = tokens
	}
	if tok = tokens[k]; tok == nil {
		tok = &token{}
		tokens[k] = tok
	}
	if tok.pending == nil && !time.Now().Before(tok.renewal) {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		tok.pending, tok.cancel = make(chan struct{}), cancel
		ref := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
		t.wg.Go(func() {
			defer cancel()
			t.fetch(ctx, tok, k, pod.Namespace, ref)
		})
	}
	if tok.pending == nil {
		return tok, nil, nil
	}
	return tok, tok.pending, nil
}

func (t *Tokens) fetch(ctx context.Context, tok *token, k tokenKey, namespace string, ref *authenticationv1.BoundObjectReference) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}
	if k.audience != "" {
		request.Spec.Audiences = []string{k.audience}
	}
	if k.expiration != 0 {
		request.Spec.ExpirationSeconds = &k.expiration
	}
	answer, err := t.create(ctx, namespace, k.account, request)

	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(tok.pending)
	tok.pending, tok.err = nil, err
	now := time.Now()
	switch {
	case err == nil:
		tok.value, tok.expires = answer.Status.Token, answer.Status.ExpirationTimestamp.Time
		tok.renewal = renewal(answer, now)
	case tok.value != "" && now.Before(tok.expires):
		t.log.Warn("cannot renew service account token", "namespace", namespace, "serviceAccount", k.account, "pod", ref.Name, "error", err)
		tok.renewal = now.Add(tokenRetry)
	default:
		return // the next Token asks again
	}
	if t.byPod[ref.UID][k] == tok && !t.closed {
		tok.timer = time.AfterFunc(tok.renewal.Sub(now), func() { t.changed([]types.UID{ref.UID}) })
	}
}

func (t *Tokens) create(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	deadline := time.Now().Add(raceWindow)
	for pause := time.Millisecond; ; pause = min(2*pause, racePause) {
		answer, err := t.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
		if err == nil || !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) || time.Now().Add(pause).After(deadline) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

func renewal(answer *authenticationv1.TokenRequest, now time.Time) time.Time {
	expires := answer.Status.ExpirationTimestamp.Time
	life := expires.Sub(now)
	if answer.Spec.ExpirationSeconds != nil {
		life = time.Duration(*answer.Spec.ExpirationSeconds) * time.Second
	}
	age := min(life*8/10, maxTokenAge) - rand.N(tokenJitter)
	if due := expires.Add(age - life); due.After(now.Add(tokenRetry)) {
		return due
	}
	return now.Add(tokenRetry) // a clock that is off must not make a busy loop
}

// forget drops the Pod's tokens and ends requests for them.
func (t *Tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tok := range t.byPod[pod] {
		tok.stop()
	}
	delete(t.byPod, pod)
}

func (t *Tokens) close() {
	t.mu.Lock()
	t.closed = true
	for _, tokens := range t.byPod {
		for _, tok := range tokens {
			tok.stop()
		}
	}
	t.mu.Unlock()
	t.wg.Wait()
}

func (tok *token) stop() {
	if tok.cancel != nil {
		tok.cancel()
	}
	if tok.timer != nil {
		tok.timer.Stop()
	}
}
