package kubeletapi

import (
	"context"
	"net/http"
	"time"

	"k8s.io/component-base/metrics"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// resourceCollector exports the use of resources as metrics-server and Prometheus expect it at
// /metrics/resource. It reads at the time of the scrape, so nothing is left of Pods that are gone.
type resourceCollector struct {
	metrics.BaseStableCollector
	summary func(context.Context) (*stats.Summary, error)

	nodeCPU, nodeMemory                             *metrics.Desc
	podCPU, podMemory                               *metrics.Desc
	containerCPU, containerMemory, containerStart   *metrics.Desc
	containerSwap, scrapeError, resourceScrapeError *metrics.Desc
}

var _ metrics.StableCollector = (*resourceCollector)(nil)

// resourceMetrics returns the handler of /metrics/resource.
func (s *Server) resourceMetrics() http.Handler {
	desc := func(level metrics.StabilityLevel, name, help string, labels ...string) *metrics.Desc {
		return metrics.NewDesc(name, help, labels, nil, level, "")
	}
	pod, container := []string{"pod", "namespace"}, []string{"container", "pod", "namespace"}
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&resourceCollector{
		summary:             s.summary,
		nodeCPU:             desc(metrics.STABLE, "node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds"),
		nodeMemory:          desc(metrics.STABLE, "node_memory_working_set_bytes", "Current working set of the node in bytes"),
		podCPU:              desc(metrics.STABLE, "pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", pod...),
		podMemory:           desc(metrics.STABLE, "pod_memory_working_set_bytes", "Current working set of the pod in bytes", pod...),
		containerCPU:        desc(metrics.STABLE, "container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", container...),
		containerMemory:     desc(metrics.STABLE, "container_memory_working_set_bytes", "Current working set of the container in bytes", container...),
		containerStart:      desc(metrics.STABLE, "container_start_time_seconds", "Start time of the container since unix epoch in seconds", container...),
		containerSwap:       desc(metrics.ALPHA, "container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", container...),
		scrapeError:         desc(metrics.ALPHA, "scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"),
		resourceScrapeError: desc(metrics.STABLE, "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"),
	})
	return metrics.HandlerFor(registry, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError})
}

// DescribeWithStability implements metrics.StableCollector.
func (c *resourceCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{c.nodeCPU, c.nodeMemory, c.podCPU, c.podMemory, c.containerCPU, c.containerMemory,
		c.containerStart, c.containerSwap, c.scrapeError, c.resourceScrapeError} {
		ch <- d
	}
}

// CollectWithStability implements metrics.StableCollector, which knows no context.
func (c *resourceCollector) CollectWithStability(ch chan<- metrics.Metric) {
	failed := 0.0
	summary, err := c.summary(context.Background())
	if err != nil {
		failed = 1
	} else {
		c.collect(ch, summary)
	}
	ch <- metrics.NewLazyConstMetric(c.scrapeError, metrics.GaugeValue, failed)
	ch <- metrics.NewLazyConstMetric(c.resourceScrapeError, metrics.GaugeValue, failed)
}

func (c *resourceCollector) collect(ch chan<- metrics.Metric, summary *stats.Summary) {
	cpu := func(d *metrics.Desc, s *stats.CPUStats, labels ...string) {
		if s != nil && s.UsageCoreNanoSeconds != nil {
			ch <- metrics.NewLazyMetricWithTimestamp(s.Time.Time, metrics.NewLazyConstMetric(d, metrics.CounterValue, float64(*s.UsageCoreNanoSeconds)/float64(time.Second), labels...))
		}
	}
	memory := func(d *metrics.Desc, s *stats.MemoryStats, labels ...string) {
		if s != nil && s.WorkingSetBytes != nil {
			ch <- metrics.NewLazyMetricWithTimestamp(s.Time.Time, metrics.NewLazyConstMetric(d, metrics.GaugeValue, float64(*s.WorkingSetBytes), labels...))
		}
	}
	cpu(c.nodeCPU, summary.Node.CPU)
	memory(c.nodeMemory, summary.Node.Memory)
	for _, p := range summary.Pods {
		pod := []string{p.PodRef.Name, p.PodRef.Namespace}
		cpu(c.podCPU, p.CPU, pod...)
		memory(c.podMemory, p.Memory, pod...)
		for _, s := range p.Containers {
			container := append([]string{s.Name}, pod...)
			cpu(c.containerCPU, s.CPU, container...)
			memory(c.containerMemory, s.Memory, container...)
			if s.StartTime.Unix() > 0 {
				ch <- metrics.NewLazyConstMetric(c.containerStart, metrics.GaugeValue, float64(s.StartTime.UnixNano())/float64(time.Second), container...)
			}
			if s.Swap != nil && s.Swap.SwapUsageBytes != nil {
				ch <- metrics.NewLazyMetricWithTimestamp(s.Swap.Time.Time, metrics.NewLazyConstMetric(c.containerSwap, metrics.GaugeValue, float64(*s.Swap.SwapUsageBytes), container...))
			}
		}
	}
}
