package containerconfig

import (
	"context"
	"fmt"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment resolves a container's variables as the kubelet's makeEnvironmentVariables does: envFrom first, then env
// in its order, each able to refer to those before it; those of Services last. Any name that the API server accepts is
// passed on.
func (n *Node) environment(ctx context.Context, in *Container) ([]kubecontainer.EnvVar, error) {
	values := map[string]string{}
	for i := range in.Container.EnvFrom {
		if err := addEnvFrom(ctx, in, &in.Container.EnvFrom[i], values); err != nil {
			return nil, err
		}
	}
	mapping := expansion.MappingFuncFor(values, in.ServiceEnv)
	for i := range in.Container.Env {
		variable := &in.Container.Env[i]
		value := expansion.Expand(variable.Value, mapping)
		if variable.Value == "" && variable.ValueFrom != nil {
			var ok bool
			var err error
			if value, ok, err = n.valueFrom(ctx, in, variable.ValueFrom); err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
		}
		values[variable.Name] = value
	}
	all := maps.Clone(in.ServiceEnv)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, values)
	return sortedEnv(all), nil
}

func addEnvFrom(ctx context.Context, in *Container, source *v1.EnvFromSource, values map[string]string) error {
	switch {
	case source.ConfigMapRef != nil:
		object, err := in.Sources.GetConfigMap(ctx, in.Pod.Namespace, source.ConfigMapRef.Name)
		if err != nil {
			return unlessOptional(err, source.ConfigMapRef.Optional)
		}
		for key, value := range object.Data {
			values[source.Prefix+key] = value
		}
	case source.SecretRef != nil:
		object, err := in.Sources.GetSecret(ctx, in.Pod.Namespace, source.SecretRef.Name)
		if err != nil {
			return unlessOptional(err, source.SecretRef.Optional)
		}
		for key, value := range object.Data {
			values[source.Prefix+key] = string(value)
		}
	}
	return nil
}

// unlessOptional forgives that an optional object is absent.
func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }

// valueFrom resolves a variable's source; ok is false if it is optional and absent, and the variable not to be set.
func (n *Node) valueFrom(ctx context.Context, in *Container, source *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case source.FieldRef != nil:
		value, err = n.fieldValue(in, source.FieldRef)
		return value, true, err
	case source.ResourceFieldRef != nil:
		value, err = n.resourceValue(in, source.ResourceFieldRef)
		return value, true, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		object, err := in.Sources.GetConfigMap(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, ok = object.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return value, ok, err
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		object, err := in.Sources.GetSecret(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		bytes, ok := object.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return string(bytes), ok, err
	case source.FileKeyRef != nil:
		ref := source.FileKeyRef
		if value, err = in.Sources.EnvFile(ctx, ref); err != nil {
			return "", false, err
		}
		if value == "" && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
		}
		return value, value != "", nil
	}
	return "", true, nil
}

func (n *Node) fieldValue(in *Container, ref *v1.ObjectFieldSelector) (string, error) {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(ref.APIVersion, ref.FieldPath, "")
	if err != nil {
		return "", err
	}
	switch path {
	case "spec.nodeName":
		return in.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return in.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(n.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(n.HostIPs, ","), nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(in.Pod, path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// resourceValue takes what has no limit to be limited by the Pod, or else by what the node has to give.
func (n *Node) resourceValue(in *Container, ref *v1.ResourceFieldSelector) (string, error) {
	allocatable := n.Allocatable
	if resourcehelper.IsPodLevelLimitsSet(in.Pod) {
		allocatable = allocatable.DeepCopy()
		for name, limit := range in.Pod.Spec.Resources.Limits {
			if _, ok := allocatable[name]; ok && resourcehelper.IsSupportedPodLevelResource(name) && !limit.IsZero() {
				allocatable[name] = limit
			}
		}
	}
	if ref.ContainerName == "" {
		container := in.Container.DeepCopy()
		resource.MergeContainerResourceLimits(container, allocatable)
		return resource.ExtractContainerResourceValue(ref, container)
	}
	pod := in.Pod.DeepCopy()
	for i := range pod.Spec.Containers {
		resource.MergeContainerResourceLimits(&pod.Spec.Containers[i], allocatable)
	}
	return resource.ExtractResourceValueByContainerName(ref, pod, ref.ContainerName)
}
