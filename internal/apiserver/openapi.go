package apiserver

import (
	"maps"
	"net/http"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"

	pspv1beta1 "peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

func setOpenAPI(c *genericapiserver.Config) {
	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := generatedopenapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, pspv1beta1.GetOpenAPIDefinitions(ref))
		return all
	})
	namer := openapinamer.NewDefinitionNamer(legacyscheme.Scheme)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
	c.OpenAPIConfig.GetDefinitionName = external(namer)
	c.OpenAPIV3Config.GetDefinitionName = external(namer)
	c.SkipOpenAPIInstallation = true // see serveOpenAPI
}

// external names definitions as the namer does, and leaves internal versions out of the kinds that a definition is of: where
// one type stands for both (PodSecurityPolicy) that is nobody else's business.
func external(namer *openapinamer.DefinitionNamer) func(string) (string, spec.Extensions) {
	const extension = "x-kubernetes-group-version-kind"
	return func(name string) (string, spec.Extensions) {
		name, extensions := namer.GetDefinitionName(name)
		if kinds, ok := extensions[extension].([]any); ok {
			extensions[extension] = slices.DeleteFunc(kinds, func(kind any) bool {
				fields, ok := kind.(map[string]any)
				return ok && fields["version"] == runtime.APIVersionInternal
			})
		}
		return name, extensions
	}
}

// serveOpenAPI serves the documents that upstream builds before it is ready. Here each is built when somebody first asks:
// it costs time and memory that a machine which only runs Pods never needs.
func serveOpenAPI(s *genericapiserver.GenericAPIServer, c *genericapiserver.Config) {
	v2 := lazily(func(m *mux.PathRecorderMux) {
		routes.OpenAPI{Config: c.OpenAPIConfig}.InstallV2(s.Handler.GoRestfulContainer, m)
	})
	v3 := lazily(func(m *mux.PathRecorderMux) {
		routes.OpenAPI{V3Config: c.OpenAPIV3Config}.InstallV3(s.Handler.GoRestfulContainer, m)
	})
	s.Handler.NonGoRestfulMux.Handle("/openapi/v2", v2)
	s.Handler.NonGoRestfulMux.Handle("/openapi/v3", v3)
	s.Handler.NonGoRestfulMux.HandlePrefix("/openapi/v3/", v3)
}

func lazily(install func(*mux.PathRecorderMux)) http.Handler {
	build := sync.OnceValue(func() http.Handler {
		m := mux.NewPathRecorderMux("openapi")
		install(m)
		return m
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { build().ServeHTTP(w, r) })
}
