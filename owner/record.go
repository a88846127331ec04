package owner

import (
	"slices"
	"strings"

	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// record is what the plan tells guestinit, but for the modules, which package
// initrd knows. Of its secrets the entropy seed alone is its own; identity and
// volume keys stay their owners'. w is the complete workload, or nil.
func (p *Plan) record(keys *secrets, disks []*disk, w *sealed.Workload) *sealed.Record {
	r := &sealed.Record{
		ImageID:      [sealed.IDSize]byte(secret.Random(sealed.IDSize)),
		IdentitySeed: keys.Identity,
		EntropySeed:  secret.Random(sealed.SeedSize),
		Root:         disks[0].volume(),
		Ready:        p.Ready,
		Workload:     w,
	}
	if w == nil {
		r.Exec = &sealed.Exec{Init: p.Init, StopSignal: p.StopSignal}
	}
	r.Channel = p.Channel.seal(keys.channelPublic())
	for _, d := range disks[1:] {
		r.Data = append(r.Data, sealed.DataVolume{Volume: d.volume(), Mount: d.mount})
	}
	slices.SortFunc(r.Data, func(a, b sealed.DataVolume) int { return strings.Compare(a.Mount, b.Mount) }) // a folder before what is in it
	return r
}
