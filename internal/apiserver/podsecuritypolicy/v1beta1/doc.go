// Package v1beta1 is the PodSecurityPolicy of policy/v1beta1, which Kubernetes had until 1.24: upstream's fields, names and
// defaults, so that manifests of then apply unchanged.
//
// One Go type stands for the external and for the internal version: there is nothing to convert, since no other version came.
//
// +k8s:deepcopy-gen=package
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=io.k8s.api.policy.v1beta1
package v1beta1

//go:generate go run k8s.io/code-generator/cmd/deepcopy-gen@v0.37.2 --output-file zz_generated.deepcopy.go .
//go:generate go run k8s.io/kube-openapi/cmd/openapi-gen@v0.0.0-20260721132016-d427ff9ee9ad --output-dir . --output-pkg peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1 --output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go --report-filename /dev/null .

// The generator calls types of packages that it is not run on by their Go names; their definitions go by others.
//go:generate sed -i -e "s#\"k8s.io/apimachinery/pkg/apis/meta/v1\\.#\"io.k8s.apimachinery.pkg.apis.meta.v1.#" -e "s#\"k8s.io/api/core/v1\\.#\"io.k8s.api.core.v1.#" zz_generated.openapi.go
