package api

import (
	"sync"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/settings"
)

// maxCreates is how many bundles of one tenant are copied at once.
const maxCreates = 4

// Quotas bounds what tenants have. A guest that is being made is counted from
// before its bundle is copied, so that two at once can't get by.
type Quotas struct {
	Default settings.Quota
	Users   map[uint32]settings.Quota // 0 in it: as Default

	mu      sync.Mutex
	pending map[uint32]map[*guest.Ask]struct{} // being made
	creates map[uint32]int                     // calls of each tenant
}

// of is a user's quota.
func (q *Quotas) of(uid uint32) settings.Quota {
	quota, own := q.Default, q.Users[uid]
	for _, v := range []struct{ to, from *int }{
		{&quota.Guests, &own.Guests}, {&quota.MemoryMiB, &own.MemoryMiB}, {&quota.CPUs, &own.CPUs}, {&quota.DiskMiB, &own.DiskMiB},
	} {
		if *v.from != 0 {
			*v.to = *v.from
		}
	}
	return quota
}

// reserve counts a guest to be, unless it does not fit beside what usage says
// the user has. A guest that exists already may be counted twice until release
// is called, never not at all.
func (q *Quotas) reserve(uid uint32, ask guest.Ask, usage func(uint32) []guest.Ask) (release func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	has := usage(uid)
	for a := range q.pending[uid] {
		has = append(has, *a)
	}
	var memory, cpus, disk int64
	for _, a := range has {
		memory, cpus, disk = memory+a.MemoryMiB, cpus+a.CPUs, disk+a.DiskBytes
	}
	const mib = 1 << 20
	quota := q.of(uid)
	for _, v := range []struct {
		has, wants int64
		limit      int
		words      string
	}{
		{int64(len(has)), 1, quota.Guests, "guests"},
		{memory, ask.MemoryMiB, quota.MemoryMiB, "MiB of memory"},
		{cpus, ask.CPUs, quota.CPUs, "CPUs"},
		{(disk + mib - 1) / mib, (ask.DiskBytes + mib - 1) / mib, quota.DiskMiB, "MiB of disk"},
	} {
		if v.limit >= 0 && v.has+v.wants > int64(v.limit) {
			return nil, fault.New(fault.Quota, "uid %d has %d of %d %s, guest %s wants %d more", uid, v.has, v.limit, v.words, ask.Name, v.wants)
		}
	}
	if q.pending == nil {
		q.pending = make(map[uint32]map[*guest.Ask]struct{})
	}
	if q.pending[uid] == nil {
		q.pending[uid] = make(map[*guest.Ask]struct{})
	}
	q.pending[uid][&ask] = struct{}{}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if delete(q.pending[uid], &ask); len(q.pending[uid]) == 0 {
			delete(q.pending, uid)
		}
	}, nil
}

// turn lets a tenant make a guest unless it makes many already.
func (q *Quotas) turn(uid uint32) (done func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.creates[uid] >= maxCreates {
		return nil, fault.New(fault.Limit, "uid %d has %d guests being created, at most %d at once", uid, q.creates[uid], maxCreates)
	}
	if q.creates == nil {
		q.creates = make(map[uint32]int)
	}
	q.creates[uid]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.creates[uid]--; q.creates[uid] == 0 {
			delete(q.creates, uid)
		}
	}, nil
}
