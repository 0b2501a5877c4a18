package apiserver

import (
	"context"
	"net"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
)

// services serves the one Service that there is, default/kubernetes, read-only: it tells clients (and Pods)
// where this API is. Services as such are out of scope (SCOPE.md), so nobody can make another and wonder
// why it does not work. Its cluster IP is the API server's own address, which Pods reach without a proxy.
type services struct {
	rest.TableConvertor
	address string // host:port of the API server
	created metav1.Time
}

var (
	_ rest.Getter               = &services{}
	_ rest.Lister               = &services{}
	_ rest.Watcher              = &services{}
	_ rest.Scoper               = &services{}
	_ rest.SingularNameProvider = &services{}
)

func newServices(address string, created metav1.Time) *services {
	table := printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)}
	return &services{TableConvertor: table, address: address, created: created}
}

func (*services) New() runtime.Object     { return &api.Service{} }
func (*services) NewList() runtime.Object { return &api.ServiceList{} }
func (*services) Destroy()                {}
func (*services) NamespaceScoped() bool   { return true }
func (*services) GetSingularName() string { return "service" }
func (*services) ShortNames() []string    { return []string{"svc"} }

func (s *services) kubernetes() *api.Service {
	host, port, _ := net.SplitHostPort(s.address)
	number, _ := strconv.ParseInt(port, 10, 32)
	policy := api.IPFamilyPolicySingleStack
	family := api.IPv4Protocol
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		family = api.IPv6Protocol
	}
	return &api.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: metav1.NamespaceDefault, UID: types.UID("kubernetes"), ResourceVersion: "1",
			CreationTimestamp: s.created, Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: api.ServiceSpec{
			Type: api.ServiceTypeClusterIP, ClusterIP: host, ClusterIPs: []string{host}, SessionAffinity: api.ServiceAffinityNone,
			IPFamilies: []api.IPFamily{family}, IPFamilyPolicy: &policy,
			Ports: []api.ServicePort{{Name: "https", Protocol: api.ProtocolTCP, Port: int32(number), TargetPort: intstr.FromInt32(int32(number))}},
		},
	}
}

func (s *services) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if genericapirequest.NamespaceValue(ctx) == metav1.NamespaceDefault && name == "kubernetes" {
		return s.kubernetes(), nil
	}
	return nil, apierrors.NewNotFound(api.Resource("services"), name)
}

func (s *services) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	list := &api.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	if service := s.kubernetes(); selected(ctx, service, o) {
		list.Items = append(list.Items, *service)
	}
	return list, nil
}

// Watch sends what is there, unless the client has seen it, and then nothing: it never changes.
func (s *services) Watch(ctx context.Context, o *internalversion.ListOptions) (watch.Interface, error) {
	events := make(chan watch.Event, 1)
	if service := s.kubernetes(); selected(ctx, service, o) && (o == nil || o.ResourceVersion == "" || o.ResourceVersion == "0") {
		events <- watch.Event{Type: watch.Added, Object: service}
	}
	return watch.NewProxyWatcher(events), nil
}

func selected(ctx context.Context, service *api.Service, o *internalversion.ListOptions) bool {
	if ns := genericapirequest.NamespaceValue(ctx); ns != "" && ns != service.Namespace {
		return false
	}
	if o == nil {
		return true
	}
	if o.LabelSelector != nil && !o.LabelSelector.Matches(labels.Set(service.Labels)) {
		return false
	}
	return o.FieldSelector == nil || o.FieldSelector.Matches(fields.Set{
		"metadata.name": service.Name, "metadata.namespace": service.Namespace,
		"spec.clusterIP": service.Spec.ClusterIP, "spec.type": string(service.Spec.Type),
	})
}
