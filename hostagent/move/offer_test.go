package move

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/store"
)

// guest is a guest with all that a record can have.
func guest() *store.Guest {
	return &store.Guest{
		Name: "g", UUID: uuid, State: "failed", ImageID: strings.Repeat("ab", 16), Identity: strings.Repeat("cd", 32), Image: "boot.seimg",
		Disks:     []store.Disk{{File: "root.img", Serial: "root"}, {File: "data.img", Serial: "data", ReadOnly: true, Cache: "direct"}},
		MemoryMiB: 512, CPUs: 2, Request: "r1", Created: time.UnixMilli(1700000000000).UTC(), Started: time.UnixMilli(1700000001000).UTC(),
		Process: &launch.Identity{PID: 7}, Stages: []store.Stage{{Name: "starting", By: store.ByHost}}, Failure: &store.Failure{Code: "H218"},
		Owner: 1000, Restart: &store.Restart{Policy: "always", Limit: 5, WindowS: 600}, Restarts: []time.Time{time.UnixMilli(1700000002000).UTC()},
		Autostart: true, Order: 3, StartedBy: "s1", Networks: []store.Network{{Kind: "user", MAC: "52:54:00:01:02:03"}},
		Resources: &store.Resources{CPUWeight: 50}, Move: &store.Move{Token: NewKey(), Phase: Leaving, Peer: "b"},
	}
}

// A guest keeps what is its own and loses what was its node's.
func TestTravel(t *testing.T) {
	t.Parallel()
	rec := guest()
	sent, missed, err := Travel(rec, nil)
	if err != nil || missed != nil {
		t.Fatal(missed, err)
	}
	text, err := store.Encode(sent)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), rec.Move.Token) {
		t.Error("the offer holds the key")
	}
	got, err := Arrival(text)
	if err != nil {
		t.Fatal(err)
	}
	want := guest()
	want.State, want.Request, want.Started, want.Process, want.Stages, want.Failure = "created", "", time.Time{}, nil, nil, nil
	want.Restarts, want.StartedBy, want.Move = nil, "", nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("arrives as %+v\nwants      %+v", got, want)
	}
	if !reflect.DeepEqual(rec.Disks, guest().Disks) || rec.Move == nil || rec.Process == nil {
		t.Error("the guest itself was changed")
	}
}

// A pod's network stays where the pod is.
func TestHandedNetworkStays(t *testing.T) {
	t.Parallel()
	rec := guest()
	rec.Networks[0] = store.Network{Kind: "handed", Socket: "/run/s", MAC: "52:54:00:01:02:03"}
	if _, _, err := Travel(rec, nil); fault.As(err) == nil || fault.As(err).Code != fault.Unfit || !strings.Contains(err.Error(), "/run/s") {
		t.Error(err)
	}
}

// No field of a record is forgotten: a new one is sorted here by whoever adds it.
func TestEveryFieldIsSorted(t *testing.T) {
	t.Parallel()
	stays := "State Request Started Process CID Stages Failure Exit Unhealthy Restarts RestartAt StartedBy BootID DiskBytes Move"
	travels := "Name UUID ImageID Identity Image Boot Loadparm Disks MemoryMiB CPUs Created Owner Restart Autostart Order Networks Resources"
	known := strings.Fields(stays + " " + travels)
	for i := range reflect.TypeFor[store.Guest]().NumField() {
		name := reflect.TypeFor[store.Guest]().Field(i).Name
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			t.Errorf("does %s travel? See own", name)
		}
	}
}

func TestAttachedDisks(t *testing.T) {
	t.Parallel()
	rec := guest()
	rec.Disks = append(rec.Disks, store.Disk{Path: "/dev/sda", Serial: "scratch"}, store.Disk{Path: "/srv/d.img", Serial: "more"})
	for without, want := range map[string]string{"": "scratch more", "more": "scratch", "scratch more": ""} {
		sent, missed, err := Travel(rec, strings.Fields(without))
		var got []string
		for _, d := range missed {
			got = append(got, d.Serial)
		}
		if err != nil || strings.Join(got, " ") != want || len(sent.Disks) != 2 {
			t.Errorf("without %q: missed %v, %d disks, %v", without, got, len(sent.Disks), err)
		}
	}
	for _, without := range []string{"root", "absent", "more more"} {
		if _, _, err := Travel(rec, strings.Fields(without)); fault.As(err).Code != fault.BadRequest {
			t.Errorf("without %s: %v", without, err)
		}
	}
	if got := strings.Join(Files(rec), " "); got != "boot.seimg root.img data.img" {
		t.Errorf("files %s", got)
	}
}

// Records that another node should not have sent, each with a word of the
// refusal.
func TestHostileRecords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*store.Guest)
		want  string
	}{
		"name":              {func(g *store.Guest) { g.Name = "../g" }, "invalid guest name"},
		"uuid":              {func(g *store.Guest) { g.UUID = uuid + ",x=y" }, "no UUID"},
		"identity":          {func(g *store.Guest) { g.Identity = "\x1b[2J" }, "not in hex"},
		"image id":          {func(g *store.Guest) { g.ImageID = strings.Repeat("a", 65) }, "not in hex"},
		"boot":              {func(g *store.Guest) { g.Boot = "floppy" }, "boot"},
		"loadparm":          {func(g *store.Guest) { g.Loadparm = "a,b" }, "loadparm"},
		"memory":            {func(g *store.Guest) { g.MemoryMiB = 1 << 40 }, "memory"},
		"negative memory":   {func(g *store.Guest) { g.MemoryMiB = -512 }, "memory"},
		"cpus":              {func(g *store.Guest) { g.CPUs = 249 }, "CPUs"},
		"image elsewhere":   {func(g *store.Guest) { g.Image = "../../g2/boot.seimg" }, "damaged"},
		"no image":          {func(g *store.Guest) { g.Image = "" }, "no image"},
		"hidden image":      {func(g *store.Guest) { g.Image = ".guest.json-1" }, "plain name"},
		"record as a disk":  {func(g *store.Guest) { g.Disks[0].File = "guest.json" }, "damaged"},
		"log as a disk":     {func(g *store.Guest) { g.Disks[0].File = "console.log" }, "damaged"},
		"absolute disk":     {func(g *store.Guest) { g.Disks[0].File = "/etc/shadow" }, "damaged"},
		"parent as a disk":  {func(g *store.Guest) { g.Disks[0].File = ".." }, "damaged"},
		"option in a name":  {func(g *store.Guest) { g.Disks[0].File = "a,readonly=off" }, "plain name"},
		"newline in a name": {func(g *store.Guest) { g.Disks[0].File = "a\nb" }, "plain name"},
		"no file":           {func(g *store.Guest) { g.Disks[0].File = "" }, "plain name"},
		"one file twice":    {func(g *store.Guest) { g.Disks[1].File = "root.img" }, "unique"},
		"image as a disk":   {func(g *store.Guest) { g.Disks[1].File = "boot.seimg" }, "unique"},
		"one serial twice":  {func(g *store.Guest) { g.Disks[1].Serial = "root" }, "serial"},
		"option in serial":  {func(g *store.Guest) { g.Disks[1].Serial = "a,b" }, "serial"},
		"host's network":    {func(g *store.Guest) { g.Networks[0].Socket = "/run/s" }, "hands over"},
		"host's disk":       {func(g *store.Guest) { g.Disks[1].Path = "/dev/sda" }, "other node's"},
		"qcow2":             {func(g *store.Guest) { g.Disks[1].Format = "qcow2" }, "only raw"},
		"no disks":          {func(g *store.Guest) { g.Disks = nil }, "0 disks"},
		"many disks":        {func(g *store.Guest) { g.Disks = make([]store.Disk, 33) }, "33 disks"},
		"mac":               {func(g *store.Guest) { g.Networks[0].MAC = "52:54:00:01:02:03,x=y" }, "MAC"},
		"group mac":         {func(g *store.Guest) { g.Networks[0].MAC = "53:54:00:01:02:03" }, "MAC"},
		"tap":               {func(g *store.Guest) { g.Networks[0].Kind, g.Networks[0].Tap = "tap", "../../x" }, "not known"},
		"network":           {func(g *store.Guest) { g.Networks[0].Kind = "vhost" }, "not known"},
		"restart policy":    {func(g *store.Guest) { g.Restart.Policy = "exec" }, "restart"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := guest()
			rec.Move = nil
			c.spoil(rec)
			text, err := store.Encode(rec)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Arrival(text); fault.As(err).Code != fault.Unfit || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	for _, text := range []string{"", "{}", `{"version":3,"sha256":"","guest":{}}`, strings.Repeat("x", 257<<10)} {
		if _, err := Arrival([]byte(text)); fault.As(err).Code != fault.Unfit {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	rec := guest()
	good := map[string]int64{"boot.seimg": 1, "root.img": 2, "data.img": MaxSize}
	if total, err := CheckSizes(rec, good); err != nil || total != 3+MaxSize {
		t.Errorf("%d, %v", total, err)
	}
	for name, sizes := range map[string]map[string]int64{
		"none": nil, "one missing": {"boot.seimg": 1, "root.img": 2}, "another": {"boot.seimg": 1, "root.img": 2, "guest.json": 3},
		"zero": {"boot.seimg": 1, "root.img": 0, "data.img": 3}, "negative": {"boot.seimg": 1, "root.img": -1, "data.img": 3},
		"large": {"boot.seimg": 1, "root.img": 1, "data.img": MaxSize + 1},
	} {
		if _, err := CheckSizes(rec, sizes); fault.As(err).Code != fault.Unfit {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What passes names nothing outside of the guest's folder and nothing that
// QEMU's options could be read into.
func FuzzCheck(f *testing.F) {
	good, err := json.Marshal(own(guest()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"name":"g","image":"../x","disks":[{"file":"a,b","serial":"r"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		rec := new(store.Guest)
		if json.Unmarshal(text, rec) != nil || check(rec) != nil {
			return
		}
		for _, file := range Files(rec) {
			if filepath.Base(file) != file || strings.ContainsAny(file, ",/\\\n\x00 ") || store.Reserved(file) || strings.HasPrefix(file, ".") {
				t.Errorf("file %q", file)
			}
		}
		for _, d := range rec.Disks {
			if d.Path != "" || d.Format != "" && d.Format != "raw" || strings.ContainsAny(d.Serial, ",=\n") {
				t.Errorf("disk %+v", d)
			}
		}
		for _, n := range rec.Networks {
			if strings.ContainsAny(n.Tap+n.MAC, ",/=\n") {
				t.Errorf("network %+v", n)
			}
		}
		if strings.ContainsAny(rec.UUID+rec.Identity+rec.ImageID+rec.Loadparm, ",=/\n\x1b") {
			t.Errorf("%+v", rec)
		}
	})
}
