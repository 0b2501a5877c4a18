package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// figure is one row of the result: samples of one quantity in one unit.
type figure struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Samples []float64 `json:"samples"`
	Goal    string    `json:"goal,omitempty"` // what design and issues ask for
	Podman  []float64 `json:"podman,omitempty"`
}

// quantile is the smallest sample that at least the share q of all samples does not exceed.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// printTable prints the figures as a Markdown table.
func printTable(out io.Writer, figures []figure) {
	fmt.Fprintln(out, "| figure | unit | median | p90 | min | max | n | goal | podman, median |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|")
	for _, f := range figures {
		podman := "-"
		if len(f.Podman) > 0 {
			podman = number(quantile(f.Podman, 0.5))
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %d | %s | %s |\n", f.Name, f.Unit,
			number(quantile(f.Samples, 0.5)), number(quantile(f.Samples, 0.9)), number(quantile(f.Samples, 0)), number(quantile(f.Samples, 1)),
			len(f.Samples), f.Goal, podman)
	}
}

// number writes three significant digits or so, which is more than such measurements are good for.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
