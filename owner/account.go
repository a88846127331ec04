package owner

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/secexec/secexec/sealed"
)

// ErrUser says that a workload's user can't be resolved.
var ErrUser = errors.New("no such user in the root")

// Account is what a root's own /etc/passwd and /etc/group say of a workload's
// user.
type Account struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary
	Home   string   `json:"home"`
}

// resolveUser resolves USER[:GROUP], each a name or a number, as container
// engines do: names need their entries, numbers don't; a number without an entry
// has group 0 and home /. A user has the groups that list it, unless a group is
// given. "" is root.
func resolveUser(spec string, passwd, group []byte) (Account, error) {
	user, wantGroup, grouped := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	a, name, err := findUser(user, passwd)
	if err != nil {
		return a, err
	}
	found := false
	for f := range entries(group, 4) {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		id := uint32(gid)
		switch {
		case grouped && f[0] == wantGroup && !found:
			a.GID, found = id, true
		case !grouped && name != "" && slices.Contains(strings.Split(f[3], ","), name) && id != a.GID && !slices.Contains(a.Groups, id):
			a.Groups = append(a.Groups, id)
		}
	}
	if len(a.Groups) > sealed.MaxGroups {
		return a, fmt.Errorf("%w: %s is in %d groups, at most %d", ErrUser, user, len(a.Groups), sealed.MaxGroups)
	}
	if !grouped || found {
		return a, nil
	}
	gid, err := parseID(wantGroup)
	if err != nil {
		return a, fmt.Errorf("%w: group %.80q is not in its /etc/group", ErrUser, wantGroup)
	}
	a.GID = gid
	return a, nil
}

// findUser finds a user's entry, by name first. name is "" without an entry.
func findUser(user string, passwd []byte) (a Account, name string, err error) {
	uid, noNumber := parseID(user)
	var byNumber *Account
	var itsName string
	for f := range entries(passwd, 7) {
		u, err1 := strconv.ParseUint(f[2], 10, 32)
		g, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		entry := Account{UID: uint32(u), GID: uint32(g), Home: f[5]}
		if entry.Home == "" {
			entry.Home = "/"
		}
		switch {
		case f[0] == user:
			return entry, f[0], nil
		case noNumber == nil && entry.UID == uid && byNumber == nil:
			byNumber, itsName = &entry, f[0]
		}
	}
	switch {
	case byNumber != nil:
		return *byNumber, itsName, nil
	case noNumber != nil:
		return a, "", fmt.Errorf("%w: user %.80q is not in its /etc/passwd", ErrUser, user)
	}
	return Account{UID: uid, Home: "/"}, "", nil
}

// parseID parses a user's or group's number. The last one is the kernel's word
// for none.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// entries gives the entries of a passwd or group file that have so many fields
// or more; what else is in it libc passes over, too.
func entries(text []byte, fields int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(text) {
			f := strings.Split(strings.TrimSpace(string(line)), ":")
			if len(f) >= fields && f[0] != "" && f[0][0] != '#' && !yield(f) {
				return
			}
		}
	}
}

// account resolves a user by a root's files; nil are those of a disk image,
// which nobody reads.
func account(user string, files map[string][]byte) (*Account, error) {
	a, err := resolveUser(user, files[passwdFile], files[groupFile])
	if err != nil && files == nil {
		return nil, fmt.Errorf("%w: of a disk image users and groups are known by number alone: %q", ErrUser, user)
	}
	if err != nil {
		return nil, err
	}
	return &a, nil
}
