package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bench is the owner's benchmark while it runs.
type bench struct {
	*options
	self   string
	groups []*group
}

// owner times the owner's commands.
func owner(ctx context.Context, o *options) ([]*group, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if o.pvimg, err = exec.LookPath(o.pvimg); err != nil {
		fmt.Println("pvimg is not installed: it is left out")
		o.pvimg = ""
	}
	b := &bench{options: o, self: self}
	for _, place := range []struct{ name, dir string }{{"memory", o.memory}, {"disk", o.disk}} {
		if place.dir == "" {
			continue
		}
		dir, err := os.MkdirTemp(place.dir, "secexec-bench-*")
		if err != nil {
			return nil, err
		}
		err = b.place(ctx, place.name, dir)
		os.RemoveAll(dir)
		if err != nil {
			return nil, err
		}
	}
	return b.groups, nil
}

// place times all that works on files in one folder.
func (b *bench) place(ctx context.Context, name, dir string) error {
	in := func(file string) string { return filepath.Join(dir, file) }
	if out, err := exec.CommandContext(ctx, b.secexec, "emulate", "init", in("host")).CombinedOutput(); err != nil {
		return fmt.Errorf("make a host: %w: %s", err, out)
	}
	if err := kernel(in("kernel")); err != nil {
		return err
	}
	if err := os.WriteFile(in("hdr.key"), bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(in("key"), bytes.Repeat([]byte{7}, 64), 0o600); err != nil {
		return err
	}
	for _, mib := range b.sizes {
		if err := random(in("initrd"), mib<<20); err != nil {
			return err
		}
		create := []string{"create", "-i", in("kernel"), "-r", in("initrd"), "-k", in("host/host.crt"), "--no-verify", "--hdr-key", in("hdr.key"), "-o"}
		image := &group{
			// One image at a time: two big ones would fill the memory, and the
			// kernel's search for some more would be timed.
			Name: fmt.Sprintf("image create, %d MiB, %s", mib, name), Bytes: kernelSize + mib<<20, Goal: "sha512 ≥ 0.91, pvimg ≥ 1.5 in memory and ≥ 2 on disk",
			Contestants: []contestant{
				{Label: "secexec", Argv: append(append([]string{b.secexec, "image"}, create...), in("ours")), prepare: remove(in("ours"), in("theirs"))},
				{Label: "sha512", Argv: []string{b.self, "sha512", in("kernel"), in("initrd")}},
			},
		}
		if b.pvimg != "" {
			image.Contestants = append(image.Contestants, contestant{Label: "pvimg", Argv: append(append([]string{b.pvimg}, create...), in("theirs")), prepare: remove(in("ours"), in("theirs"))})
		}
		if openssl, err := exec.LookPath("openssl"); err == nil {
			image.Contestants = append(image.Contestants, contestant{Label: "openssl", Argv: []string{openssl, "dgst", "-sha512", in("kernel"), in("initrd")}})
		}
		if err := b.run(ctx, image); err != nil {
			return err
		}
		if err := remove(in("theirs"))(); err != nil {
			return err
		}
		if err := b.retarget(ctx, in, mib, name, image.Contestants[0]); err != nil {
			return err
		}
		if err := remove(in("ours"))(); err != nil {
			return err
		}
		if err := b.diskCreate(ctx, in, mib, name); err != nil {
			return err
		}
	}
	return nil
}

// retarget gives an image of image create's another host.
func (b *bench) retarget(ctx context.Context, in func(string) string, mib int64, place string, create contestant) error {
	name := fmt.Sprintf("image retarget, %d MiB, %s", mib, place)
	if !strings.Contains(name, b.only) {
		return nil
	}
	if _, err := create.once(ctx); err != nil {
		return fmt.Errorf("make an image to retarget: %w", err)
	}
	return b.run(ctx, &group{
		Name: name, Goal: "< 20 ms at any size",
		Contestants: []contestant{{
			Label: "secexec",
			Argv:  []string{b.secexec, "image", "retarget", in("ours"), "--replace", "-k", in("host/host.crt"), "--no-verify", "--hdr-key", in("hdr.key")},
		}},
	})
}

// diskCreate encrypts a file system that is there already, so that the cipher
// and the disk are timed and not mke2fs; its peer copies the same bytes.
func (b *bench) diskCreate(ctx context.Context, in func(string) string, mib int64, place string) error {
	name := fmt.Sprintf("disk create, %d MiB, %s", mib, place)
	if !strings.Contains(name, b.only) {
		return nil
	}
	plain := in("plain.ext4")
	if err := random(plain, mib<<20); err != nil {
		return err
	}
	defer os.Remove(plain)
	if out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", plain).CombinedOutput(); err != nil {
		return fmt.Errorf("make a file system: %w: %s", err, out)
	}
	defer os.Remove(in("disk"))
	return b.run(ctx, &group{
		Name: name, Bytes: mib << 20, Goal: "cp ≥ 0.8",
		Contestants: []contestant{
			{Label: "secexec", Argv: []string{b.secexec, "disk", "create", "--root", plain, "--key-file", in("key"), "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "-o", in("disk")}, prepare: remove(in("disk"))},
			{Label: "cp", Argv: []string{"sh", "-c", "cp --reflink=never --sparse=never " + plain + " " + in("copy") + " && sync " + in("copy")}, prepare: remove(in("copy"))},
		},
	})
}

func (b *bench) run(ctx context.Context, g *group) error {
	if !strings.Contains(g.Name, b.only) {
		return nil
	}
	if err := g.measure(ctx, b.runs); err != nil {
		return err
	}
	b.groups = append(b.groups, g)
	return nil
}

const kernelSize = 8 << 20

// kernel writes what passes for an s390x kernel: the marks that makers of
// images look for, and zeros.
func kernel(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 0x11000)
	copy(head[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(head[0x10430:], 4096)
	binary.BigEndian.PutUint64(head[0x10428:], 0x10f00)
	copy(head[0x10f00:], "6.12.0 (bench)\x00")
	if _, err := f.Write(head); err != nil {
		return err
	}
	return f.Truncate(kernelSize)
}

// random writes a file that does not compress.
func random(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, rand.Reader, size); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
