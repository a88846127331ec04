package ext4

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// mke2fs makes a file system, or skips.
func mke2fs(t *testing.T, size string, args ...string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	cmd := exec.Command("mke2fs", append(append([]string{"-q", "-F", "-t", "ext4"}, args...), path, size)...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/sbin:"+os.Getenv("PATH"), "MKE2FS_CONFIG=/dev/null")
	if cmd.Err != nil {
		t.Skip("mke2fs is not installed")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t *testing.T, f *os.File) (*FS, error) {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return Open(f, info.Size())
}

const modern = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// The blocks that Used leaves out are as many as e2fsprogs counts as free.
func TestUsedCountsAsE2fsprogs(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"modern":          {"-b", "4096", "-O", modern},
		"small blocks":    {"-b", "1024", "-O", modern},
		"no flex_bg":      {"-b", "1024", "-O", modern + ",^flex_bg"},
		"32 bits":         {"-b", "4096", "-O", modern + ",^64bit"},
		"old checksums":   {"-b", "4096", "-O", modern + ",^metadata_csum,uninit_bg"},
		"no checksums":    {"-b", "1024", "-O", modern + ",^metadata_csum"},
		"two copies":      {"-b", "1024", "-O", modern + ",sparse_super2,^resize_inode"},
		"copies anywhere": {"-b", "1024", "-O", modern + ",^sparse_super,^resize_inode"},
		"no journal":      {"-b", "2048", "-O", modern + ",^has_journal"},
		"small groups":    {"-b", "1024", "-g", "1024", "-O", modern},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mke2fs(t, "70M", args...)
			fs, err := open(t, f)
			if err != nil {
				t.Fatal(err)
			}
			used, err := fs.Used()
			if err != nil {
				t.Fatal(err)
			}
			free := 0
			for b := range fs.blocks {
				if !used.Range(b*fs.blockSize, fs.blockSize) {
					free++
				}
			}
			cmd := exec.Command("dumpe2fs", "-h", f.Name())
			if cmd.Err != nil {
				cmd = exec.Command("/usr/sbin/dumpe2fs", "-h", f.Name())
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			m := regexp.MustCompile(`Free blocks: +([0-9]+)`).FindSubmatch(out)
			if want, _ := strconv.Atoi(string(m[1])); free != want {
				t.Errorf("%d free blocks, dumpe2fs counts %d", free, want)
			}
			if !used.Range(fs.blocks*fs.blockSize, 1) || !used.Range(fs.blocks*fs.blockSize-1, 2) {
				t.Error("what lies behind the file system is free")
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want error
	}{
		"bigalloc": {[]string{"-O", modern + ",bigalloc"}, ErrUnsupported},
		"meta_bg":  {[]string{"-O", modern + ",meta_bg,^resize_inode"}, ErrUnsupported},
	} {
		if _, err := open(t, mke2fs(t, "32M", c.args...)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	set := func(at int64, b ...byte) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt(b, at); return err }
	}
	for name, c := range map[string]struct {
		features string
		change   func(*os.File) error
		want     error
	}{
		"no magic":              {modern, set(1024+0x38, 0), ErrFormat},
		"changed superblock":    {modern, set(1024+0x200, 1), ErrFormat},
		"changed descriptor":    {modern, set(4096+4, 1), ErrFormat},
		"not clean":             {modern + ",^metadata_csum", set(1024+0x3a, 2), ErrUnsupported},
		"journal to be read":    {modern + ",^metadata_csum", set(1024+0x60, 0xc6), ErrUnsupported},
		"more blocks than file": {modern + ",^metadata_csum", set(1024+7, 1), ErrFormat},
		"no groups":             {modern + ",^metadata_csum", set(1024+0x20, 0, 0, 0, 0), ErrFormat},
		"table outside":         {modern + ",^metadata_csum", set(4096+3, 0xff), ErrFormat},
		"cut off":               {modern, func(f *os.File) error { return f.Truncate(1500) }, ErrFormat},
	} {
		f := mke2fs(t, "32M", "-b", "4096", "-O", c.features)
		if err := c.change(f); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, f); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := mke2fs(t, "32M", "-b", "4096", "-O", modern)
	fs, err := open(t, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := set(fs.groups[0].blockBitmap*4096+1000, 0x5a)(f); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Used(); !errors.Is(err, ErrFormat) {
		t.Errorf("changed bitmap: %v", err)
	}
}

// padded is an image that goes on with zeros.
type padded struct{ b []byte }

func (p padded) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(p.b)) {
		copy(b, p.b[at:])
	}
	return len(b), nil
}

// minimal is superblock, descriptor, root inode and folder of an ext4 without
// checksums: blocks of 1 KiB.
func minimal() []byte {
	b := make([]byte, 8<<10)
	s := b[superOffset:]
	for at, v := range map[int]uint32{0: 16, 4: 1024, 0x14: 1, 0x20: 8192, 0x28: 16, 0x4c: 1, 0x60: incompatExtents | incompatFiletype} {
		le.PutUint32(s[at:], v)
	}
	le.PutUint16(s[0x38:], superMagic)
	le.PutUint16(s[0x3a:], stateClean)
	le.PutUint16(s[0x58:], 128)
	d := b[2048:]
	for i, block := range []uint32{3, 4, 5} {
		le.PutUint32(d[4*i:], block)
	}
	root := b[5*1024+128:]
	le.PutUint16(root, 0x41ed)
	le.PutUint32(root[4:], 1024)
	le.PutUint32(root[0x20:], flagExtents)
	le.PutUint16(root[0x28:], extentMagic)
	le.PutUint16(root[0x2a:], 1)
	le.PutUint16(root[0x38:], 1)
	le.PutUint32(root[0x3c:], 7)
	dir := b[7*1024:]
	le.PutUint32(dir, 2)
	le.PutUint16(dir[4:], 12)
	copy(dir[6:], "\x01\x02.")
	le.PutUint32(dir[12:], 11)
	le.PutUint16(dir[16:], 1012)
	copy(dir[18:], "\x04\x01file")
	return b
}

func TestMinimal(t *testing.T) {
	t.Parallel()
	fs, err := Open(padded{minimal()}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.Inode(RootInode)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := fs.Folder(root)
	if err != nil || len(entries) != 1 || entries["file"].Inode != 11 {
		t.Errorf("got %v, %v", entries, err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(minimal())
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := Open(padded{b}, 1<<22)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("error without a class: %v", err)
			}
			return
		}
		if _, err := fs.Used(); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("error without a class: %v", err)
		}
		root, err := fs.Inode(RootInode)
		if err != nil {
			return
		}
		entries, err := fs.Folder(root)
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
			t.Fatalf("error without a class: %v", err)
		}
		for _, e := range entries {
			i, err := fs.Inode(e.Inode)
			if err != nil {
				continue
			}
			// What is written back reads the same.
			var out bytes.Buffer
			if err := fs.WriteInode(writerAt{&out}, i); err != nil || fs.ro&roMetadataCsum == 0 && !bytes.Equal(out.Bytes(), i.raw) {
				t.Fatalf("inode %d is written otherwise: %v", i.Number, err)
			}
		}
	})
}

type writerAt struct{ io.Writer }

func (w writerAt) WriteAt(b []byte, _ int64) (int, error) { return w.Write(b) }
