package guest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
)

// A blank disk has its size and takes no room; a quota counts what it may take.
func TestMakeBlank(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "swap.img")
	if err := makeBlank(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Size != 1<<30 || st.Blocks*512 > 64<<10 || st.Mode&0o777 != 0o600 {
		t.Errorf("%v: %d bytes in %d blocks, mode %o", err, st.Size, st.Blocks, st.Mode)
	}
	if err := os.Truncate(path, 7); err != nil {
		t.Fatal(err)
	}
	var f *fault.Error
	if err := makeBlank(path, 1<<30); !errors.As(err, &f) || f.Code != fault.Storage {
		t.Errorf("over a file that is there: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 7 {
		t.Errorf("the file that was there was changed: %v", err)
	}
	m := &bundle.Manifest{Image: bundle.Image{Part: bundle.Part{Size: 5}}, Disks: []bundle.Disk{{Part: bundle.Part{Size: 1 << 30}, Format: bundle.FormatBlank}}}
	if n := partsSize(m); n != 1<<30+5 {
		t.Errorf("%d bytes count", n)
	}
}
