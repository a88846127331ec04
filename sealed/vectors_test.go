package sealed

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
)

var update = flag.Bool("update", false, "rewrite vectors")

const vectorDir = "../docs/formats/vectors/sealed-record"

var vectorFields = []string{"image-id", "identity", "runs", "stop-signal", "root-id", "root-key", "root-payload", "mounts", "modules"}

// facts are what a vector says of a record, in the form of its header.
func facts(r *Record) string {
	var mounts, modules []string
	for _, d := range r.Data {
		mounts = append(mounts, d.Mount)
	}
	for _, m := range r.Modules {
		modules = append(modules, m.File)
	}
	runs, signal := "", uint8(0)
	if r.Exec != nil {
		runs, signal = r.Exec.Init, r.Exec.StopSignal
	} else {
		runs, signal = r.Workload.Args[0], r.Workload.StopSignal
	}
	return fmt.Sprintf("image-id: %x\nidentity: %x\nruns: %s\nstop-signal: %d\nroot-id: %x\nroot-key: %x\nroot-payload: %d %d\nmounts: %s\nmodules: %s\n",
		r.ImageID, r.PublicKey(), runs, signal, r.Root.ID, []byte(r.Root.Key), r.Root.Offset, r.Root.Size,
		strings.Join(mounts, " "), strings.Join(modules, " "))
}

// Another implementation that reads them must come to the same verdicts, and
// this one must write the same bytes for ever.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	vectors.Walk(t, vectorDir, []string{"ok", "invalid"}, vectorFields, func(t *testing.T, v *vectors.Vector) {
		r, err := Unmarshal(v.Body)
		if v.Expect == "invalid" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(facts(r)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if got := v.Get(name); got != value {
				t.Errorf("%s is %q, the vector says %q", name, value, got)
			}
		}
		if again, err := r.Marshal(); err != nil || !bytes.Equal(again, v.Body) {
			t.Errorf("re-encodes to other bytes: %v", err)
		}
	})
}

func writeVectors(t *testing.T) {
	for name, r := range map[string]*Record{"ok": sample(), "ok-data": data(), "ok-full": full(), "ok-host-network": hostNetwork()} {
		comment := map[string]string{"ok-host-network": "a workload whose network the host describes", "ok": "a root found by its serial number", "ok-data": "partitions, data volumes, each file system", "ok-full": "each field there is, but for an init"}[name]
		vectors.Write(t, vectorDir, name, fmt.Sprintf("expect: ok\ncomment: %s\n%s", comment, facts(r)), r.encode(), false)
	}
	invalid := func(name, comment string, body []byte) {
		vectors.Write(t, vectorDir, strings.NewReplacer(" ", "-", "/", "", ".", "").Replace(name), "expect: invalid\ncomment: "+comment+"\n", body, len(body) > MaxSize)
	}
	// The encoding has no way to say these.
	unsayable := []string{"identity seed", "entropy seed", "two places", "data key", "key short", "no file system"}
	for name, spoil := range spoilers {
		if !slices.Contains(unsayable, name) {
			r := full()
			spoil(r)
			invalid(name, strings.TrimPrefix(r.Check().Error(), ErrInvalid.Error()+": "), r.encode())
		}
	}
	b := data().encode()
	root := header + IDSize + 2*SeedSize + 2 + 2 + len("00-virtio_blk.ko") + 1 + 2 + len("01-aes_s390.ko") + 1 + 1 + 1 + 1 + 2
	for name, c := range map[string]struct {
		comment string
		body    []byte
	}{
		"empty":              {"nothing", nil},
		"magic":              {"another magic", edit(b, 0, 's')},
		"version 2":          {"version 2, which had no modes", edit(b, 9, 2)},
		"version 4":          {"a version that does not exist yet", edit(b, 9, 4)},
		"length":             {"the length field says a byte less", edit(b, 13, b[13]-1)},
		"too large":          {"a byte more than 64 KiB", make([]byte, MaxSize+1)},
		"found by":           {"found by way 2", edit(b, root+IDSize, 2)},
		"fresh flag":         {"a flag that is 2", edit(b, root+IDSize+1+IDSize+1, 2)},
		"optional flag":      {"a module's flag that is 2", edit(b, root-6-len("01-aes_s390.ko")-2-1, 2)},
		"string long":        {"a text of 256 bytes and more", edit(b, header+IDSize+2*SeedSize+2, 1)},
		"truncated":          {"the last byte is missing; the length field agrees", resize(b[:len(b)-1])},
		"trailing":           {"a byte after the last field; the length field agrees", resize(append(bytes.Clone(b), 0))},
		"truncated in a key": {"it ends in the root's key; the length field agrees", resize(b[:root+IDSize+1+IDSize+2+10])},
	} {
		invalid(name, c.comment, c.body)
	}
}

// resize makes the length field say how long a record is.
func resize(b []byte) []byte {
	n := len(b)
	return edit(edit(b, 12, byte(n>>8)), 13, byte(n))
}
