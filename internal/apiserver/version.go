package apiserver

import (
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
)

// effectiveVersion is that of the Kubernetes we are built from, with our own name for it at /version.
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
	gitVersion string
}

func newEffectiveVersion(gitVersion string) effectiveVersion {
	v := compatibility.DefaultComponentGlobalsRegistry.EffectiveVersionFor(basecompatibility.DefaultKubeComponent)
	return effectiveVersion{v, gitVersion}
}

func (v effectiveVersion) Info() *apimachineryversion.Info {
	info := *v.EffectiveVersion.Info()
	if v.gitVersion != "" {
		info.GitVersion = v.gitVersion
	}
	return &info
}
