package owner

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/initrd"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/seimage"
)

// packInitrd writes the initrd to a file without a name: it holds the volume
// keys in plain text.
func packInitrd(ctx context.Context, p *Plan, found *prepared, record *sealed.Record, disks []*disk, in *outfile.Dir) (*os.File, error) {
	needs := initrd.Needs{
		Block: true, Console: true, Crypt: true, FileSystems: p.fileSystems(disks),
		Integrity: p.has(sealed.Integrity), Verity: p.has(sealed.Verity),
		SCSI: p.Devices.SCSI || p.BootableDisk != "", Net: p.hasNetwork(found.workload),
		Vsock: record.Channel != nil,
	}
	want, err := needs.Modules()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(in.Path, "initrd-*")
	if err != nil {
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = initrd.Write(ctx, w, initrd.Plan{
		Tree:   found.tree,
		Want:   want,
		Init:   filepath.Join(p.GuestDir, "guestinit"),
		Agent:  filepath.Join(p.GuestDir, "guestagent"),
		Record: record, Templates: templates(disks),
		Strip: p.Strip,
	})
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	return f, nil
}

// sealImage makes the boot image and returns the initrd's size.
func sealImage(ctx context.Context, p *Plan, found *prepared, rd *os.File, keys *secrets, path string) (int64, error) {
	info, err := rd.Stat()
	if err != nil {
		return 0, fmt.Errorf("read initrd: %w", err)
	}
	out, err := outfile.Create(path, 0o644, false)
	if err != nil {
		return 0, err
	}
	defer out.Abort()
	hosts := make([]*ecdsa.PublicKey, len(p.Hosts))
	for i, doc := range p.Hosts {
		hosts[i] = doc.Key
	}
	flags := seimage.DefaultFlags
	if p.AllowDump {
		flags |= seimage.AllowDump
	}
	_, err = seimage.Create(ctx, out, seimage.Spec{
		Kernel:    seimage.Source{R: found.kernel.Image, Size: found.kernel.Image.Size()},
		Initrd:    seimage.Source{R: rd, Size: info.Size()},
		Cmdline:   []byte(found.cmdline),
		Hosts:     hosts,
		HeaderKey: keys.Header,
		ImageKey:  keys.Image,
		CommKey:   keys.Comm,
		PCF:       &flags,
	})
	if err != nil {
		return 0, fmt.Errorf("seal boot image: %w", err)
	}
	return info.Size(), out.Commit()
}
