// Package admission is the chain of upstream's in-tree admission plugins that concern what this API server serves.
package admission

import (
	"io"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/compatibility"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/nodetaint"
	"k8s.io/kubernetes/plugin/pkg/admission/podresize"
	podpriority "k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"

	"peapod.dev/peapod/internal/apiserver/admission/podsecuritypolicy"
)

// Config is what the plugins need.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Authorize authorizer.Authorizer
	Version   compatibility.EffectiveVersion
	// Served says which resources can be counted by quotas.
	Served serverstorage.APIResourceConfigSource
	// Policies are the PodSecurityPolicies that there are.
	Policies podsecuritypolicy.Lister
	// Drained ends the plugins' goroutines.
	Drained <-chan struct{}
}

// plugin is a row of the chain.
type plugin struct {
	name     string
	register func(*admission.Plugins)
}

// chain is in the order of kubeapiserver/options.AllOrderedPlugins: what is enabled there by default, and NodeRestriction,
// which every cluster with the Node authorizer enables. PodSecurityPolicy, which is ours, stands where upstream had it. Left
// out are the plugins for resources that are not served.
func chain(cfg Config) []plugin {
	return []plugin{
		{lifecycle.PluginName, lifecycle.Register},
		{limitranger.PluginName, limitranger.Register},
		{serviceaccount.PluginName, serviceaccount.Register},
		{noderestriction.PluginName, noderestriction.Register},
		{nodetaint.PluginName, nodetaint.Register},
		{podsecurity.PluginName, podsecurity.Register},
		{podsecuritypolicy.PluginName, func(p *admission.Plugins) { podsecuritypolicy.Register(p, cfg.Policies) }},
		{podpriority.PluginName, podpriority.Register},
		{defaulttolerationseconds.PluginName, defaulttolerationseconds.Register},
		{runtimeclass.PluginName, runtimeclass.Register},
		{podresize.PluginName, podresize.Register},
		{resourcequota.PluginName, resourcequota.Register},
	}
}

// New returns the chain. It works once the informers have synced; until then plugins hold requests up.
func New(cfg Config) (admission.Interface, error) {
	quotas, err := quotainstall.NewQuotaConfigurationForAdmission(cfg.Informers, cfg.Served)
	if err != nil {
		return nil, err
	}
	initializers := admission.PluginInitializers{
		initializer.New(cfg.Client, nil, cfg.Informers, cfg.Authorize, utilfeature.DefaultFeatureGate, cfg.Version, cfg.Drained, nil),
		quotaInitializer{quotas},
	}
	plugins := admission.NewPlugins()
	var names []string
	for _, p := range chain(cfg) {
		p.register(plugins)
		names = append(names, p.name)
	}
	return plugins.NewFromPlugins(names, noConfig{}, initializers, nil)
}

// noConfig leaves every plugin at its defaults.
type noConfig struct{}

func (noConfig) ConfigFor(string) (io.Reader, error) { return nil, nil }

// quotaInitializer tells the quota plugin how much of what an object uses.
type quotaInitializer struct{ quota.Configuration }

func (i quotaInitializer) Initialize(p admission.Interface) {
	if w, ok := p.(initializer.WantsQuotaConfiguration); ok {
		w.SetQuotaConfiguration(i.Configuration)
	}
}
