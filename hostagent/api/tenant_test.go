package api

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// methods are all calls of all services of the API.
func methods(t *testing.T) (all []protoreflect.MethodDescriptor) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFilesByPackage("secexec.hostagent.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j, s := 0, f.Services().Get(i); j < s.Methods().Len(); j++ {
				all = append(all, s.Methods().Get(j))
			}
		}
		return true
	})
	if len(all) < 11 {
		t.Fatalf("%d calls found", len(all))
	}
	return all
}

// request is a call's request about a guest: each field that may name one does.
func request(m protoreflect.MethodDescriptor, name, bundle string) *dynamicpb.Message {
	r := dynamicpb.NewMessage(m.Input())
	for i, fields := 0, m.Input().Fields(); i < fields.Len(); i++ {
		f := fields.Get(i)
		var v protoreflect.Value
		switch {
		case f.Kind() == protoreflect.StringKind && (strings.HasPrefix(string(f.Name()), "name") || strings.HasPrefix(string(f.Name()), "guest")):
			v = protoreflect.ValueOfString(name)
		case f.Name() == "bundle":
			v = protoreflect.ValueOfString(bundle)
		case f.Kind() == protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes(make([]byte, 32))
		default:
			continue
		}
		if f.IsList() {
			r.Mutable(f).List().Append(v)
		} else {
			r.Set(f, v)
		}
	}
	return r
}

// try makes a call, of a stream its first two messages: all that comes back.
func try(t *testing.T, n *testNode, path string, m protoreflect.MethodDescriptor, r proto.Message, change func()) ([]byte, error) {
	t.Helper()
	conn := rawDial(t, path)
	c := ttrpc.NewClient(conn)
	defer c.Close()
	answer := dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingServer() && !m.IsStreamingClient() {
		err := c.Call(t.Context(), string(m.Parent().FullName()), string(m.Name()), r, answer)
		b, _ := proto.Marshal(answer)
		return b, err
	}
	s, err := c.NewStream(t.Context(), &ttrpc.StreamDesc{StreamingServer: m.IsStreamingServer(), StreamingClient: m.IsStreamingClient()}, string(m.Parent().FullName()), string(m.Name()), r)
	if err != nil {
		return nil, err
	}
	if err := s.RecvMsg(answer); err != nil {
		return nil, err
	}
	change()
	second := dynamicpb.NewMessage(m.Output())
	if err := s.RecvMsg(second); err != nil {
		return nil, err
	}
	b, _ := proto.Marshal(answer)
	b2, _ := proto.Marshal(second)
	return append(b, b2...), nil
}

// Whatever a tenant calls, another's guest is neither seen nor touched, and looks
// as if it did not exist. A new call is in this table by itself.
func TestEveryCallAsAnotherTenant(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	a, b := n.dial(alice), n.dial(bob)
	victim := n.create(a, "victim")
	own := n.create(b, "own")
	// What both can see happens to both, the victim first; each start fails.
	change := func() {
		for _, name := range []string{"victim", "own"} {
			g, err := n.fleet.Get(name)
			if err == nil {
				err = g.Start(t.Context(), "")
			}
			if err != nil {
				t.Error(err)
				return
			}
			eventually(t, "a start fails", func() bool { return g.Snapshot().State == string(guest.Failed) })
		}
	}
	socket := n.socket(bob)
	get := func() *hostagentv1.Guest {
		g, err := a.Get(t.Context(), "victim")
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for _, m := range methods(t) {
		before := get()
		for _, named := range []bool{true, false} { // a call that names nobody may be about all
			name := ""
			if named {
				name = "victim"
			}
			if !named && m.Name() == "Create" {
				continue // makes bob a guest
			}
			answer, err := try(t, n, socket, m, request(m, name, n.bundle), change)
			if bytes := string(answer); strings.Contains(bytes, "victim") || strings.Contains(bytes, victim.Uuid) {
				t.Errorf("%s tells bob of alice's guest: %q", m.FullName(), bytes)
			}
			if !forTenants[m.FullName()] {
				if codeOf(err) != fault.AdminOnly {
					t.Errorf("%s, which is not for tenants: %v", m.FullName(), err)
				}
				continue
			}
			// The same about a guest that there is not.
			_, other := try(t, n, socket, m, request(m, strings.Replace(name, "victim", "absent", 1), n.bundle), change)
			if m.Name() == "Create" {
				if err := b.Delete(t.Context(), "absent"); err != nil {
					t.Error(err)
				}
				if codeOf(err) != fault.NameTaken || strings.Contains(err.Error(), "400") {
					t.Errorf("Create of a name that is taken: %v", err)
				}
				continue
			}
			if strings.ReplaceAll(fmt.Sprint(err), "victim", "absent") != fmt.Sprint(other) {
				t.Errorf("%s tells a guest that is not bob's (%v) from one that is not (%v)", m.FullName(), err, other)
			}
			if named && m.Input().Fields().ByName("name") != nil && codeOf(err) != fault.NoGuest {
				t.Errorf("%s of alice's guest: %v", m.FullName(), err)
			}
		}
		if after := get(); m.Name() != "Events" && !proto.Equal(before, after) {
			t.Errorf("%s changed alice's guest from %v to %v", m.FullName(), before, after)
		}
	}
	// The same calls do find the guest for those whose it is.
	for _, who := range []Caller{alice, admin} {
		socket := n.socket(who)
		for _, m := range methods(t) {
			if m.Name() == "Delete" || !forTenants[m.FullName()] || m.Input().Fields().ByName("name") == nil {
				continue
			}
			if _, err := try(t, n, socket, m, request(m, "victim", n.bundle), change); codeOf(err) == fault.NoGuest {
				t.Errorf("%s does not find the guest for uid %d: %v", m.FullName(), who.UID, err)
			}
		}
	}
	if own.OwnerUid != bob.UID || victim.OwnerUid != alice.UID {
		t.Errorf("owners %d and %d", own.OwnerUid, victim.OwnerUid)
	}
}

func codeOf(err error) fault.Code {
	for _, d := range status.Convert(err).Details() {
		if f, ok := d.(*hostagentv1.Failure); ok {
			return fault.Code(f.Code)
		}
	}
	return ""
}

// A call that carries no caller, as behind a gate that was left out, may nothing.
func TestNobody(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.create(n.dial(alice), "web")
	if got, err := n.service.List(t.Context(), nil); err != nil || len(got.Guests) != 0 {
		t.Errorf("List shows %v %v", got, err)
	}
	if _, err := n.service.Get(t.Context(), &hostagentv1.NameRequest{Name: "web"}); status.Code(err) != codes.NotFound {
		t.Errorf("Get: %v", err)
	}
	if (&Caller{UID: nobody}).Sees(nobody) {
		t.Error("nobody owns guests")
	}
}

// A repeated Create gives the guest to who made it only.
func TestRepeatedCreate(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	r := &hostagentv1.CreateRequest{Name: "web", Bundle: n.bundle, RequestId: "1"}
	a := n.dial(alice)
	first, err := a.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.Create(t.Context(), r); err != nil || again.Uuid != first.Uuid {
		t.Errorf("again: %v %v", again, err)
	}
	if g, err := n.dial(bob).Create(t.Context(), r); code(err) != fault.NameTaken {
		t.Errorf("another tenant with the same id: %v %v", g, err)
	}
}

// What tenants may not ask for.
func TestTenantsRequests(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	a := n.dial(alice)
	for name, c := range map[string]struct {
		change func(*hostagentv1.CreateRequest)
		want   fault.Code
	}{
		"plain":          {func(r *hostagentv1.CreateRequest) { r.Autostart = true }, ""},
		"user network":   {func(r *hostagentv1.CreateRequest) { r.Networks = []*hostagentv1.Network{{Kind: "user"}} }, fault.AdminOnly},
		"low weight":     {func(r *hostagentv1.CreateRequest) { r.Resources = &hostagentv1.Resources{CpuWeight: 10, IoWeight: 100} }, ""},
		"disk":           {func(r *hostagentv1.CreateRequest) { r.Disks = []*hostagentv1.Disk{{Path: "/dev/sda"}} }, fault.AdminOnly},
		"tap":            {func(r *hostagentv1.CreateRequest) { r.Networks = []*hostagentv1.Network{{Kind: "tap"}} }, fault.AdminOnly},
		"network":        {func(r *hostagentv1.CreateRequest) { r.Networks = []*hostagentv1.Network{{}} }, fault.AdminOnly},
		"CPU weight":     {func(r *hostagentv1.CreateRequest) { r.Resources = &hostagentv1.Resources{CpuWeight: 101} }, fault.AdminOnly},
		"IO weight":      {func(r *hostagentv1.CreateRequest) { r.Resources = &hostagentv1.Resources{IoWeight: 101} }, fault.AdminOnly},
		"order":          {func(r *hostagentv1.CreateRequest) { r.Order = 1 }, fault.AdminOnly},
		"outside":        {func(r *hostagentv1.CreateRequest) { r.Bundle = "/etc" }, fault.Path},
		"dots":           {func(r *hostagentv1.CreateRequest) { r.Bundle += "/../../state" }, fault.Path},
		"relative":       {func(r *hostagentv1.CreateRequest) { r.Bundle = "bundles/hello" }, fault.BadRequest},
		"absent":         {func(r *hostagentv1.CreateRequest) { r.Bundle += "2" }, fault.Bundle},
		"long":           {func(r *hostagentv1.CreateRequest) { r.Bundle += strings.Repeat("/.", maxPath) }, fault.BadRequest},
		"much memory":    {func(r *hostagentv1.CreateRequest) { r.MemoryMib = 4097 }, fault.Quota},
		"no real memory": {func(r *hostagentv1.CreateRequest) { r.MemoryMib = 1<<32 - 1 }, fault.BadRequest},
	} {
		r := &hostagentv1.CreateRequest{Name: "g", Bundle: n.bundle}
		c.change(r)
		_, err := a.Create(t.Context(), r)
		if code(err) != c.want || err != nil && c.want == "" {
			t.Errorf("%s: %v, wants %q", name, err, c.want)
		}
		if err == nil {
			if err := a.Delete(t.Context(), "g"); err != nil {
				t.Error(err)
			}
		}
	}
}

// Administrators are held to the folders that the settings name.
func TestAdministratorsPaths(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) {
		n.service.Roots.Admins, n.service.Roots.Disks = roots.Roots{n.dir + "/bundles"}, roots.Roots{n.dir + "/disks"}
	})
	if err := errors.Join(os.MkdirAll(n.dir+"/disks", 0o700), os.WriteFile(n.dir+"/disks/a.img", make([]byte, 512), 0o600), os.WriteFile(n.dir+"/b.img", make([]byte, 512), 0o600), os.Symlink("../b.img", n.dir+"/disks/out")); err != nil {
		t.Fatal(err)
	}
	c := n.dial(admin)
	for _, v := range []struct {
		bundle, disk string
		want         fault.Code
	}{
		{n.bundle, "", ""},
		{n.bundle, n.dir + "/disks/a.img", ""},
		{n.bundle, n.dir + "/b.img", fault.Path},
		{n.bundle, n.dir + "/disks/out", fault.Path},
		{n.bundle, n.dir + "/disks/../b.img", fault.Path},
		{n.dir, "", fault.Path},
	} {
		r := &hostagentv1.CreateRequest{Name: "g", Bundle: v.bundle}
		if v.disk != "" {
			r.Disks = []*hostagentv1.Disk{{Path: v.disk}}
		}
		_, err := c.Create(t.Context(), r)
		if code(err) != v.want || err != nil && v.want == "" {
			t.Errorf("%s with %s: %v, wants %q", v.bundle, v.disk, err, v.want)
		}
		if err == nil {
			if err := c.Delete(t.Context(), "g"); err != nil {
				t.Error(err)
			}
		}
	}
}

// A tenant's bundle is read with the tenant's rights, its parts too.
func TestTenantsBundles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("gives files to other users: needs root")
	}
	n := newNode(t, nil)
	bobs := filepath.Join(n.dir, "bundles", "bobs")
	if err := os.Mkdir(bobs, 0o700); err != nil {
		t.Fatal(err)
	}
	writeBundle(t, bobs)
	try := func(c Caller, want fault.Code) {
		t.Helper()
		conn := n.dial(c)
		_, err := conn.Create(t.Context(), &hostagentv1.CreateRequest{Name: "g", Bundle: bobs})
		if code(err) != want || err != nil && want == "" {
			t.Errorf("uid %d: %v, wants %q", c.UID, err, want)
		}
		if err == nil {
			if err := conn.Delete(t.Context(), "g"); err != nil {
				t.Error(err)
			}
		}
	}
	if err := os.Chown(bobs, int(bob.UID), int(bob.UID)); err != nil {
		t.Fatal(err)
	}
	try(bob, "")
	try(admin, "")
	try(alice, fault.Path)
	for _, part := range []string{"bundle.json", "boot.seimg", "root.img"} {
		file := filepath.Join(bobs, part)
		if err := os.Chmod(file, 0o600); err != nil { // root's
			t.Fatal(err)
		}
		try(bob, fault.Path)
		if err := errors.Join(os.Chmod(file, 0o644), os.Rename(file, file+"2"), os.Symlink(part+"2", file)); err != nil {
			t.Fatal(err)
		}
		try(bob, fault.Path) // a link, even to a file of its own
		if err := os.Rename(file+"2", file); err != nil {
			t.Fatal(err)
		}
	}
	try(bob, "")
	if left := listDir(t, filepath.Join(n.dir, "state", "guests")); len(left) > 0 {
		t.Errorf("refusals leave %v", left)
	}
}

// Creates at once don't exceed a quota together; what is removed is free again.
func TestQuota(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) {
		n.service.Users = map[uint32]settings.Quota{bob.UID: {Guests: 2}, 4003: {Guests: -1, MemoryMiB: -1, CPUs: -1, DiskMiB: -1}}
	})
	for _, c := range []struct {
		who  Caller
		want int
	}{{alice, 5}, {bob, 2}, {Caller{UID: 4003}, 12}, {admin, 12}} {
		path := n.socket(c.who)
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				conn := n.connect(path)
				for {
					_, err := conn.Create(t.Context(), &hostagentv1.CreateRequest{Name: fmt.Sprintf("u%d-%d", c.who.UID, i), Bundle: n.bundle})
					switch code(err) {
					case fault.Limit: // several at once
						continue
					case "", fault.Quota:
					default:
						t.Error(err)
					}
					return
				}
			})
		}
		wg.Wait()
		conn := n.connect(path)
		all, err := conn.List(t.Context())
		own := 0
		for _, g := range all {
			if g.OwnerUid == c.who.UID {
				own++
			}
		}
		if err != nil || own != c.want {
			t.Errorf("uid %d has %d guests, wants %d (%v)", c.who.UID, own, c.want, err)
		}
		if c.want == 12 {
			continue
		}
		_, err = conn.Create(t.Context(), &hostagentv1.CreateRequest{Name: "more", Bundle: n.bundle})
		if words := fmt.Sprintf("uid %d has %d of %d guests, guest more wants 1 more", c.who.UID, own, own); code(err) != fault.Quota || !strings.Contains(err.Error(), words) {
			t.Errorf("one more: %v", err)
		}
		if err := conn.Delete(t.Context(), all[0].Name); err != nil {
			t.Error(err)
		}
		n.create(conn, "more")
		if err := conn.Delete(t.Context(), "more"); err != nil {
			t.Error(err)
		}
	}
	if q := &n.service.Quotas; len(q.pending) != 0 || len(q.creates) != 0 {
		t.Errorf("still counted: %v %v", q.pending, q.creates)
	}
}

func TestQuotaOf(t *testing.T) {
	t.Parallel()
	q := Quotas{Default: settings.Quota{Guests: 1, MemoryMiB: 2, CPUs: 3, DiskMiB: 4}, Users: map[uint32]settings.Quota{7: {MemoryMiB: 20, DiskMiB: -1}}}
	if got, want := q.of(7), (settings.Quota{Guests: 1, MemoryMiB: 20, CPUs: 3, DiskMiB: -1}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := q.of(8); got != q.Default {
		t.Errorf("%+v", got)
	}
}

// Every refusal of every call carries its code.
func TestEveryRefusalHasItsCode(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	for _, who := range []Caller{admin, alice} {
		socket := n.socket(who)
		for _, m := range methods(t) {
			for _, r := range []proto.Message{request(m, "absent", "/absent"), request(m, "../x", "relative"), request(m, strings.Repeat("n", 5000), strings.Repeat("b", 5000)), dynamicpb.NewMessage(m.Input())} {
				if m.Name() == "Events" && r.ProtoReflect().Get(m.Input().Fields().ByName("name")).String() == "" {
					continue // which nothing is wrong with
				}
				if _, err := try(t, n, socket, m, r, func() {}); err != nil && codeOf(err) == "" {
					t.Errorf("%s as uid %d of %.80v: %v has no code", m.FullName(), who.UID, r, err)
				}
			}
		}
	}
}
