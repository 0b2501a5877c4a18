package apiserver

import (
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
)

// enableFeatures turns on what upstream 1.37 has and does not serve by default, but peapod's agent does. The gates are the
// process' own, and upstream's registries read them at every request.
func enableFeatures() error {
	return utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.ContainerStopSignals): true, // lifecycle.stopSignal, else dropped from every Pod
	})
}
