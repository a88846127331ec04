package owner

import (
	"reflect"
	"strings"
	"testing"

	"github.com/secexec/secexec/sealed"
)

func TestParseOverlay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, mode, key string
		size            int64
		root            sealed.Mode
		want            *Overlay
		err             string
	}{
		{kind: "", want: nil},
		{kind: "none", root: sealed.Verity, want: nil},
		{kind: "memory", root: sealed.Verity, want: &Overlay{}},
		{kind: "volume", size: 1 << 30, root: sealed.Verity, want: &Overlay{Volume: true, Size: 1 << 30, Mode: sealed.Integrity}},
		{kind: "volume", size: 1 << 30, mode: "crypt", root: sealed.Verity, want: &Overlay{Volume: true, Size: 1 << 30}},
		{kind: "volume", size: 1 << 30, want: &Overlay{Volume: true, Size: 1 << 30}},
		{kind: "volume", size: 1 << 30, key: "fresh", root: sealed.Verity, want: &Overlay{Volume: true, Size: 1 << 30, Fresh: true}},
		{kind: "volume", size: 1 << 30, key: "sealed", want: &Overlay{Volume: true, Size: 1 << 30}},
		{kind: "none", key: "fresh", err: "is none"},
		{kind: "volume", key: "old", err: `"old" is neither sealed nor fresh`},
		{kind: "none", size: 1, err: "is none"},
		{kind: "", mode: "crypt", err: "is none"},
		{kind: "disk", err: `"disk" is none of none, memory and volume`},
		{kind: "volume", mode: "xts", err: `"xts" is none of`},
	} {
		got, err := ParseOverlay(c.kind, c.size, c.mode, c.key, c.root)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c, err)
			}
		case err != nil || !reflect.DeepEqual(got, c.want):
			t.Errorf("%+v: %+v %v", c, got, err)
		}
	}
}

func TestCheckOverlay(t *testing.T) {
	t.Parallel()
	verity := FileSystem{Mode: sealed.Verity}
	for _, c := range []struct {
		root    FileSystem
		overlay *Overlay
		want    string // "" is no error
	}{
		{FileSystem{}, nil, ""},
		{verity, &Overlay{}, ""},
		{FileSystem{FSType: "erofs"}, &Overlay{Size: 1 << 20}, ""},
		{FileSystem{ReadOnly: true}, &Overlay{Volume: true, Size: 1 << 20}, ""},
		{FileSystem{}, &Overlay{}, "is written to itself"},
		{FileSystem{Mode: sealed.Integrity}, &Overlay{}, "is written to itself"},
		{verity, &Overlay{Volume: true}, "no size"},
		{verity, &Overlay{Size: 1<<20 + 1}, "no multiple of 1 MiB"},
		{verity, &Overlay{Volume: true, Size: 1 << 20, Mode: sealed.Verity}, "is written to"},
		{verity, &Overlay{Mode: sealed.Integrity}, "has no mode"},
		{verity, &Overlay{Volume: true, Size: 1 << 30, Fresh: true}, ""},
		{verity, &Overlay{Size: 1 << 20, Fresh: true}, "a fresh key is for a volume"},
		{verity, &Overlay{Volume: true, Size: 1 << 30, Mode: sealed.Integrity, Fresh: true}, "a fresh key is for a volume"},
		{verity, &Overlay{Size: 256 << 20}, "256 MiB in a guest with 256 MiB"},
	} {
		err := (&Plan{MemoryMiB: 256, Root: c.root, Overlay: c.overlay}).checkOverlay()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v with %+v: %v, wants %q", c.root, c.overlay, err, c.want)
		}
	}
}

// A root that nothing can be made in has all that is mounted on.
func TestMountPoints(t *testing.T) {
	t.Parallel()
	p := Plan{Root: FileSystem{Mode: sealed.Verity}, Volumes: []Volume{{Mount: "/srv/a/b"}, {Mount: "/srv/a"}}}
	if got, want := p.mountPoints(), []string{"/dev", "/proc", "/run", "/sys", "/srv/a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, wants %v", got, want)
	}
	for name, q := range map[string]Plan{"written to": {}, "with a layer": {Root: p.Root, Overlay: &Overlay{}}} {
		if got := q.mountPoints(); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An image stays beside the next one on a bootable disk only while its root does.
func TestHashTreesAreCompared(t *testing.T) {
	t.Parallel()
	a, b := &HashTreeAbout{RootHash: "aa"}, &HashTreeAbout{RootHash: "ab"}
	same := *a
	for _, c := range []struct {
		a, b *HashTreeAbout
		want bool
	}{{nil, nil, true}, {a, &same, true}, {a, b, false}, {a, nil, false}, {nil, b, false}} {
		if got := c.a.is(c.b); got != c.want {
			t.Errorf("%v is %v: %v", c.a, c.b, got)
		}
	}
}

// A data volume may be called as the layer's disk is, where there is none.
func TestVolumeCalledOverlay(t *testing.T) {
	t.Parallel()
	p := Plan{MemoryMiB: 256, Volumes: []Volume{{Name: OverlaySerial, Mount: "/srv"}}}
	for _, o := range []*Overlay{nil, {Size: mebi}} {
		p.Overlay = o
		disks, err := p.disks(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys := newSecrets()
		r := p.record(keys, disks, nil)
		if len(r.Data) != 1 || r.Data[0].Mount != "/srv" || (r.Overlay != nil) != (o != nil) || o != nil && (r.Overlay.Volume != nil || r.Overlay.MemoryMiB != 1) {
			t.Errorf("with %+v: %+v, %d data volumes", o, r.Overlay, len(r.Data))
		}
		wipeDisks(disks)
		keys.wipe()
	}
}
