package controllers

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
)

func TestRun(t *testing.T) {
	client := fake.NewClientset(
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: v1.NamespaceStatus{Phase: v1.NamespaceActive}},
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	shared := informers.NewSharedInformerFactory(client, 0)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Client: client, Metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()),
			Informers: shared, RootCA: []byte("CERT"), ClusterCIDR: netip.MustParsePrefix("10.88.0.0/16"), Log: slog.New(slog.DiscardHandler)})
	}()
	for {
		_, account := client.CoreV1().ServiceAccounts("ns").Get(ctx, "default", metav1.GetOptions{})
		_, certificate := client.CoreV1().ConfigMaps("ns").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		node, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if account == nil && certificate == nil && err == nil && node.Spec.PodCIDR == "10.88.0.0/24" {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("account: %v, certificate: %v, node: %v", account, certificate, node)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	shared.Shutdown()
}

func TestRunNeedsAMetadataClient(t *testing.T) {
	if err := Run(t.Context(), Config{}); err == nil {
		t.Error("want an error")
	}
}
