package initrd

import (
	"errors"
	"strings"
	"testing"
)

func TestNeeds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		needs Needs
		want  string // a "?" marks an optional one
		err   error
	}{
		"nothing":         {Needs{}, "", nil},
		"encrypted root":  {Needs{Block: true, Crypt: true, FileSystems: []string{"ext4"}}, "virtio_blk aes_s390? xts dm-crypt ext4", nil},
		"scsi":            {Needs{SCSI: true}, "virtio_scsi sd_mod", nil},
		"ports and nets":  {Needs{Console: true, Vsock: true, Net: true}, "virtio_console vmw_vsock_virtio_transport? virtio_net", nil},
		"verity":          {Needs{Verity: true, FileSystems: []string{"overlay", "erofs"}}, "sha256_s390? dm-verity erofs overlay", nil},
		"integrity":       {Needs{Integrity: true, FileSystems: []string{"xfs"}}, "sha256_s390? hmac authenc dm-integrity xfs", nil},
		"each once":       {Needs{FileSystems: []string{"xfs", "ext4", "xfs"}}, "ext4 xfs", nil},
		"no file system":  {Needs{FileSystems: []string{"zfs"}}, "", ErrFileSystem},
		"empty file name": {Needs{FileSystems: []string{""}}, "", ErrFileSystem},
	} {
		want, err := tt.needs.Modules()
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: Modules: %v, want %v", name, err, tt.err)
		}
		var got []string
		for _, w := range want {
			if w.Optional {
				w.Name += "?"
			}
			if w.For == "" {
				t.Errorf("%s: %s is for nothing", name, w.Name)
			}
			got = append(got, w.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: Modules gave %v, want %s", name, got, tt.want)
		}
	}
}

// A refusal names the module, what it is for, and the kernel.
func TestMissingModuleIsNamed(t *testing.T) {
	t.Parallel()
	want, err := Needs{Net: true}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	_, err = fakeTree(t).Closure(want)
	const words = "find module virtio_net for virtio-net: no such module: kernel 6.12-test has it neither as a file nor built in"
	if !errors.Is(err, ErrNoModule) || err.Error() != words {
		t.Errorf("Closure: %v, want %s", err, words)
	}
}
