package cluster

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// imagesOf returns the images of a Pod's containers, init containers and image volumes, by the names that Nodes report.
func imagesOf(pod *v1.Pod) []string {
	var images []string
	for i := range pod.Spec.InitContainers {
		images = append(images, imageName(pod.Spec.InitContainers[i].Image))
	}
	for i := range pod.Spec.Containers {
		images = append(images, imageName(pod.Spec.Containers[i].Image))
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			images = append(images, imageName(image.Reference))
		}
	}
	return images
}

// imageName adds the tag that is meant when there is none.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}

// imageSizes returns the bytes of each image on a Node, by all its names.
func imageSizes(node *v1.Node) map[string]int64 {
	sizes := map[string]int64{}
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			sizes[name] = image.SizeBytes
		}
	}
	return sizes
}
