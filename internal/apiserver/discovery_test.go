package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"peapod.dev/peapod/internal/apiserver"
)

// TestDiscoveryIsTheTable holds the static table against what the server says it serves, in both forms of discovery.
func TestDiscoveryIsTheTable(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	want := sets.New(apiserver.Served()...)

	check := func(form string, lists []*metav1.APIResourceList) {
		t.Helper()
		got := sets.New[string]()
		for _, l := range lists {
			for _, r := range l.APIResources {
				got.Insert(l.GroupVersion + "/" + r.Name)
			}
		}
		if !got.Equal(want) {
			t.Errorf("%s: missing %v, unexpected %v", form, sets.List(want.Difference(got)), sets.List(got.Difference(want)))
		}
	}
	_, lists, err := c.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	check("aggregated", lists)
	groups, err := c.Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	lists = nil
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			l, err := c.Discovery().ServerResourcesForGroupVersion(v.GroupVersion)
			if err != nil {
				t.Fatal(err)
			}
			lists = append(lists, l)
		}
	}
	check("by group", lists)
}

func TestOpenAPI(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	v2, err := c.Discovery().OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	if v2.Info.Title != "Kubernetes" || !strings.HasPrefix(v2.Info.Version, "1.37") {
		t.Errorf("info %v", v2.Info)
	}
	paths, err := c.Discovery().OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := paths["api/v1"].Schema("application/json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Paths      map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(doc, &schema); err != nil {
		t.Fatal(err)
	}
	if schema.Paths["/api/v1/namespaces/{namespace}/pods/{name}/exec"] == nil || schema.Components.Schemas["io.k8s.api.core.v1.Pod"] == nil {
		t.Error("no pods/exec or no Pod")
	}
}

func TestTable(t *testing.T) {
	s := start(t, t.TempDir())
	c := admin(t, s)
	ns := namespace(t, c, nil)
	createPod(t, c, ns, newPod("web"))
	var table metav1.Table
	err := c.CoreV1().RESTClient().Get().Namespace(ns).Resource("pods").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(&table)
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, d := range table.ColumnDefinitions {
		columns = append(columns, d.Name)
	}
	if got := strings.Join(columns, " "); got != "Name Ready Status Restarts Age IP Node Nominated Node Readiness Gates" {
		t.Errorf("columns %q", got)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "web" || table.Rows[0].Cells[2] != "Pending" {
		t.Errorf("rows %+v", table.Rows)
	}
}
