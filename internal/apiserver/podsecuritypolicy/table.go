package podsecuritypolicy

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kubernetes/pkg/printers"

	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

// addColumns gives kubectl get the columns that it had for policies.
func addColumns(h printers.PrintHandler) {
	columns := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: "Name of the policy."}}
	for _, name := range []string{"Priv", "Caps", "Selinux", "RunAsUser", "FsGroup", "SupGroup", "ReadOnlyRootFs", "Volumes"} {
		columns = append(columns, metav1.TableColumnDefinition{Name: name, Type: "string"})
	}
	utilruntime.Must(h.TableHandler(columns, func(p *v1beta1.PodSecurityPolicy, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		return []metav1.TableRow{row(p)}, nil
	}))
	utilruntime.Must(h.TableHandler(columns, func(l *v1beta1.PodSecurityPolicyList, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		rows := make([]metav1.TableRow, 0, len(l.Items))
		for i := range l.Items {
			rows = append(rows, row(&l.Items[i]))
		}
		return rows, nil
	}))
}

func row(p *v1beta1.PodSecurityPolicy) metav1.TableRow {
	s := &p.Spec
	return metav1.TableRow{Object: runtime.RawExtension{Object: p}, Cells: []any{
		p.Name, fmt.Sprint(s.Privileged), join(s.AllowedCapabilities), string(s.SELinux.Rule), string(s.RunAsUser.Rule),
		string(s.FSGroup.Rule), string(s.SupplementalGroups.Rule), fmt.Sprint(s.ReadOnlyRootFilesystem), join(s.Volumes),
	}}
}

func join[S ~string](list []S) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(s))
	}
	return b.String()
}
