package podsecuritypolicy

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/pods"

	pspregistry "peapod.dev/peapod/internal/apiserver/podsecuritypolicy"
	"peapod.dev/peapod/internal/apiserver/podsecuritypolicy/v1beta1"
)

func checkVolumes(s *v1beta1.PodSecurityPolicySpec, pod *api.Pod) field.ErrorList {
	var errs field.ErrorList
	for i, v := range pod.Spec.Volumes {
		at, kind := field.NewPath("spec", "volumes").Index(i), volumeType(v.VolumeSource)
		if !allowsVolume(s, kind, v.VolumeSource) {
			errs = append(errs, field.Invalid(at, string(kind), fmt.Sprintf("%s volumes are not allowed to be used", kind)))
			continue
		}
		switch kind {
		case v1beta1.HostPath:
			allowed, readOnly := allowsHostPath(s, v.HostPath.Path)
			if !allowed {
				errs = append(errs, field.Invalid(at.Child("hostPath", "pathPrefix"), v.HostPath.Path, "is not allowed to be used"))
			} else if readOnly {
				errs = append(errs, checkReadOnly(pod, v.Name)...)
			}
		case v1beta1.FlexVolume:
			if d := v.FlexVolume.Driver; len(s.AllowedFlexVolumes) > 0 && !slices.Contains(s.AllowedFlexVolumes, v1beta1.AllowedFlexVolume{Driver: d}) {
				errs = append(errs, field.Invalid(at.Child("driver"), d, "Flexvolume driver is not allowed to be used"))
			}
		case v1beta1.CSI:
			if d := v.CSI.Driver; len(s.AllowedCSIDrivers) > 0 && !slices.Contains(s.AllowedCSIDrivers, v1beta1.AllowedCSIDriver{Name: d}) {
				errs = append(errs, field.Invalid(at.Child("csi", "driver"), d, "Inline CSI driver is not allowed to be used"))
			}
		}
	}
	return errs
}

// volumeType is what policies call the one field of a volume that is set.
func volumeType(v api.VolumeSource) v1beta1.FSType {
	for f, value := range reflect.ValueOf(v).Fields() {
		if !value.IsNil() {
			return pspregistry.VolumeTypes[f.Name]
		}
	}
	return ""
}

func allowsVolume(s *v1beta1.PodSecurityPolicySpec, kind v1beta1.FSType, v api.VolumeSource) bool {
	if slices.Contains(s.Volumes, v1beta1.AllVolumes) || slices.Contains(s.Volumes, kind) {
		return true
	}
	// Policies are older than the projected volumes in which every Pod has its service account's token, which was in a secret.
	return kind == v1beta1.Projected && slices.Contains(s.Volumes, v1beta1.Secret) && isServiceAccount(v.Projected)
}

// isServiceAccount says whether nothing but what the service account admission plugin projects is in a volume.
func isServiceAccount(v *api.ProjectedVolumeSource) bool {
	for _, s := range v.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			if s.ServiceAccountToken.Path != "token" || s.ServiceAccountToken.Audience != "" {
				return false
			}
		case s.ConfigMap != nil:
			if s.ConfigMap.Name != "kube-root-ca.crt" {
				return false
			}
		case s.DownwardAPI != nil:
			for _, f := range s.DownwardAPI.Items {
				if f.Path != "namespace" || f.FieldRef == nil || f.FieldRef.APIVersion != "v1" || f.FieldRef.FieldPath != "metadata.namespace" {
					return false
				}
			}
		default:
			return false
		}
	}
	return true
}

// allowsHostPath says whether a path, or one above it, is listed, and whether only for reading. With no list all are.
func allowsHostPath(s *v1beta1.PodSecurityPolicySpec, name string) (allowed, readOnly bool) {
	if len(s.AllowedHostPaths) == 0 {
		return true, false
	}
	for _, p := range s.AllowedHostPaths {
		if !within(name, p.PathPrefix) {
			continue
		}
		if !p.ReadOnly {
			return true, false
		}
		allowed, readOnly = true, true
	}
	return allowed, readOnly
}

func within(name, dir string) bool {
	name, dir = path.Clean(name), path.Clean(dir)
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

func checkReadOnly(pod *api.Pod, volume string) field.ErrorList {
	var errs field.ErrorList
	pods.VisitContainersWithPath(&pod.Spec, field.NewPath("spec"), func(c *api.Container, at *field.Path) bool {
		for i, m := range c.VolumeMounts {
			if m.Name == volume && !m.ReadOnly {
				errs = append(errs, field.Invalid(at.Child("volumeMounts").Index(i).Child("readOnly"), false, "must be read-only"))
			}
		}
		return true
	})
	return errs
}
