package main

import (
	"testing"
	"unsafe"

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

// The kernel's structures, by <linux/xfs_fs.h>.
func TestXFSStructures(t *testing.T) {
	t.Parallel()
	if g, d := unsafe.Sizeof(xfsGeometryV1{}), unsafe.Sizeof(xfsGrowth{}); g != 112 || d != 16 {
		t.Errorf("%d and %d bytes", g, d)
	}
	if at := unsafe.Offsetof(xfsGeometryV1{}.maxInodes); at != 28 {
		t.Errorf("share of inodes at %d", at)
	}
	if at := unsafe.Offsetof(xfsGeometryV1{}.blocks); at != 32 {
		t.Errorf("blocks at %d", at)
	}
}
