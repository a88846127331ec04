package owner

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// SwapSerial is the swap disk's serial number and name.
const SwapSerial = "swap"

const mebi = 1 << 20

// checkFresh refuses what can't be said of a volume whose key is made at each
// boot, of swap, and of growth.
func (p *Plan) checkFresh() error {
	const limit = 1 << 40
	if n := p.SwapSize; n < 0 || n%mebi != 0 || n > limit {
		return fmt.Errorf("plan swap: size %d is no multiple of 1 MiB up to 1 TiB", n)
	}
	if p.Root.Grow && p.Root.ReadOnly {
		return fmt.Errorf("plan root: read-only, it can't grow")
	}
	for _, v := range p.Volumes {
		switch {
		case v.Grow && v.ReadOnly:
			return fmt.Errorf("plan volume %s: read-only, it can't grow", v.Name)
		case !v.Fresh:
		case v.Source != "" || v.Partition != 0:
			return fmt.Errorf("plan volume %s: with a fresh key it is empty at each boot: leave its source out, or seal its key", v.Name)
		case v.Mode != sealed.Crypt:
			return fmt.Errorf("plan volume %s: with a fresh key its mode is crypt, not %s", v.Name, modes[v.Mode].word)
		case v.ReadOnly:
			return fmt.Errorf("plan volume %s: with a fresh key it is empty at each boot: read-only it is of no use", v.Name)
		case v.Grow:
			return fmt.Errorf("plan volume %s: with a fresh key it has the size in the plan and does not grow", v.Name)
		case v.Size < 4*mebi || v.Size%mebi != 0 || v.Size > limit:
			return fmt.Errorf("plan volume %s: with a fresh key it needs a size, a multiple of 1 MiB from 4 MiB to 1 TiB", v.Name)
		}
	}
	return nil
}

// makeFresh prepares a disk without content: its id, and the empty file system
// that the guest writes to it. On a bootable disk it takes a file of holes.
func (d *disk) makeFresh(ctx context.Context, p *Plan, into *outfile.Dir) error {
	if d.id == [sealed.IDSize]byte{} {
		d.id = [sealed.IDSize]byte(secret.Random(sealed.IDSize))
	}
	d.about = DiskAbout{ID: hex.EncodeToString(d.id[:]), Fresh: true, Size: d.fs.Size}
	if !d.swap {
		p.step("make empty file system of " + d.what())
		var err error
		if d.template, err = rootdisk.Empty(ctx, into.Path, d.fs.Size, d.id); err != nil {
			return fmt.Errorf("%s: %w", d.what(), err)
		}
		d.about.FSType = "ext4"
	}
	if p.BootableDisk == "" {
		return nil
	}
	if err := into.WriteFile(d.file(), nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(into.Join(d.file()), d.fs.Size); err != nil {
		return fmt.Errorf("make %s: %w", d.what(), err)
	}
	return nil
}

// templates are the empty file systems that the initrd takes along.
func templates(all []*disk) map[string][]byte {
	out := make(map[string][]byte)
	for _, d := range all {
		if d.template != nil {
			out[d.name] = d.template
		}
	}
	return out
}

// checkGrow refuses to let a file system grow that the guest can't grow.
func (d *disk) checkGrow() error {
	if d.fs.Grow && d.about.FSType != "ext4" && d.about.FSType != "xfs" {
		return fmt.Errorf("create %s: its %s does not grow in the guest, only ext4 and xfs do: leave grow out", d.what(), d.about.FSType)
	}
	return nil
}
