package main

import "testing"

func TestQuantile(t *testing.T) {
	samples := []float64{4, 1, 3, 2}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.5, 2}, {0.9, 4}, {1, 4}} {
		if got := quantile(samples, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, samples, got, c.want)
		}
	}
	if samples[0] != 4 {
		t.Error("quantile has reordered the samples")
	}
}
