package main

import (
	"testing"

	"github.com/secexec/secexec/proto/readiness"
)

func TestFreshFailuresHaveSentences(t *testing.T) {
	t.Parallel()
	for _, f := range []failure{failFreshKey, failEmpty, failSwap, failGrow} {
		if readiness.Failures[string(f)] == "" {
			t.Errorf("%s has no sentence", f)
		}
	}
}
