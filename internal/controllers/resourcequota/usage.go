package resourcequota

import (
	"context"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/utils/clock"
)

// usage knows how to count what quotas limit. It is safe for concurrent use.
type usage struct {
	resources Resources
	pods      coreinformers.PodInformer
	watches   metadatainformer.SharedInformerFactory
	changed   func(namespace string) // something that is counted went

	mu       sync.Mutex
	known    quota.Registry // nil until the API server has said what it serves
	served   map[schema.GroupResource]schema.GroupVersionResource
	watching map[schema.GroupVersionResource]cache.GenericLister
}

func newUsage(meta metadata.Interface, resources Resources, pods coreinformers.PodInformer, changed func(string)) *usage {
	return &usage{resources: resources, pods: pods, changed: changed,
		watches:  metadatainformer.NewSharedInformerFactory(meta, 0),
		watching: map[schema.GroupVersionResource]cache.GenericLister{}}
}

// registry returns the evaluators, having made sure that everything the quota counts is watched.
func (u *usage) registry(ctx context.Context, q *v1.ResourceQuota) (quota.Registry, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil {
		if err := u.discover(); err != nil {
			return nil, err
		}
	}
	hard := quota.ResourceNames(q.Spec.Hard)
	for _, evaluator := range u.known.List() {
		gvr := u.served[evaluator.GroupResource()]
		if gvr.Resource == "pods" || len(evaluator.MatchingResources(hard)) == 0 {
			continue
		}
		if err := u.watch(ctx, gvr); err != nil {
			return nil, err
		}
	}
	return u.known, nil
}

// discover makes an evaluator for Pods, and one that counts for each other resource that is served.
func (u *usage) discover() error {
	lists, err := u.resources()
	if err != nil {
		return fmt.Errorf("cannot discover what the API server serves: %w", err)
	}
	gvrs, err := discovery.GroupVersionResources(discovery.FilteredBy(
		discovery.SupportsAllVerbs{Verbs: []string{"create", "list", "watch", "delete"}}, lists))
	if err != nil {
		return fmt.Errorf("cannot understand what the API server serves: %w", err)
	}
	aliases := map[string]v1.ResourceName{
		"configmaps": v1.ResourceConfigMaps, "secrets": v1.ResourceSecrets, "resourcequotas": v1.ResourceQuotas,
	}
	evaluators := []quota.Evaluator{core.NewPodEvaluator(u.lister, clock.RealClock{})}
	u.served = map[schema.GroupResource]schema.GroupVersionResource{{Resource: "pods"}: v1.SchemeGroupVersion.WithResource("pods")}
	ignored := quotainstall.DefaultIgnoredResources()
	for gvr := range gvrs {
		gr := gvr.GroupResource()
		if _, skip := ignored[gr]; skip || gr.Resource == "pods" && gr.Group == "" {
			continue
		}
		alias := v1.ResourceName("")
		if gr.Group == "" {
			alias = aliases[gr.Resource]
		}
		u.served[gr] = gvr
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(gr, generic.ListResourceUsingListerFunc(u.lister, gvr), alias))
	}
	u.known = generic.NewRegistry(evaluators)
	return nil
}

// watch starts to watch a resource's metadata, and returns when all that exist are known.
func (u *usage) watch(ctx context.Context, gvr schema.GroupVersionResource) error {
	if u.watching[gvr] != nil {
		return nil
	}
	informer := u.watches.ForResource(gvr)
	synced, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		u.changed(obj.(metav1.Object).GetNamespace())
	}})
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", gvr.Resource, err)
	}
	u.watches.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", synced.HasSyncedChecker()) {
		return ctx.Err()
	}
	u.watching[gvr] = informer.Lister()
	return nil
}

// wait returns when all watches have ended, which they do with the context of the call that started them.
func (u *usage) wait() { u.watches.Shutdown() }

// lister implements quota.ListerForResourceFunc. It is called by the evaluators, after registry has returned them.
func (u *usage) lister(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
	if gvr.Resource == "pods" {
		return cache.NewGenericLister(u.pods.Informer().GetIndexer(), gvr.GroupResource()), nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if lister := u.watching[gvr]; lister != nil {
		return lister, nil
	}
	return nil, fmt.Errorf("%s are not counted here", gvr.Resource)
}
