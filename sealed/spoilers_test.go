package sealed

import (
	"bytes"
	"net/netip"
	"strings"
)

// spoilers make a full record one that no guest could use.
var spoilers = map[string]func(*Record){
	"image id":         func(r *Record) { r.ImageID = [IDSize]byte{} },
	"identity seed":    func(r *Record) { r.IdentitySeed = r.IdentitySeed[:31] },
	"entropy seed":     func(r *Record) { r.EntropySeed = nil },
	"too many modules": func(r *Record) { r.Modules = make([]Module, MaxModules+1) },
	"module path":      func(r *Record) { r.Modules[0].File = "../x.ko" },
	"module no .ko":    func(r *Record) { r.Modules[0].File = "x.sh" },
	"module twice":     func(r *Record) { r.Modules[1].File = r.Modules[0].File },

	"no hand-over":  func(r *Record) { r.Workload = nil },
	"two hand-over": func(r *Record) { r.Exec = &Exec{"/sbin/init", 38} },
	"init relative": func(r *Record) { exec(r).Init = "sbin/init" },
	"init dot dot":  func(r *Record) { exec(r).Init = "/sbin/../init" },
	"init blank":    func(r *Record) { exec(r).Init = "/sbin/in it" },
	"init root":     func(r *Record) { exec(r).Init = "/" },
	"signal 0":      func(r *Record) { exec(r).StopSignal = 0 },
	"signal 65":     func(r *Record) { exec(r).StopSignal = 65 },
	"ready at 2":    func(r *Record) { r.Ready = 2 },

	"volume id":        func(r *Record) { r.Root.ID = [IDSize]byte{} },
	"no place":         func(r *Record) { r.Root.PartUUID = [16]byte{} },
	"two places":       func(r *Record) { r.Root.Serial = "root" },
	"erofs to write":   func(r *Record) { r.Data[1].ReadOnly = false },
	"too much data":    func(r *Record) { r.Data = make([]DataVolume, MaxData+1) },
	"data key":         func(r *Record) { r.Data[0].Key = nil },
	"id twice":         func(r *Record) { r.Data[0].ID = r.Root.ID },
	"partition twice":  func(r *Record) { r.Data[1].PartUUID = r.Data[0].PartUUID },
	"key twice":        func(r *Record) { r.Data[1].Key = r.Data[0].Key },
	"mount relative":   func(r *Record) { r.Data[0].Mount = "srv" },
	"mount root":       func(r *Record) { r.Data[0].Mount = "/" },
	"mount twice":      func(r *Record) { r.Data[2].Mount = "/srv" },
	"mount hides one":  func(r *Record) { r.Data[2].Mount = "/var"; r.Data[0].Mount = "/var/x" },
	"mount at /proc":   func(r *Record) { r.Data[0].Mount = "/proc" },
	"mount in /run":    func(r *Record) { r.Data[0].Mount = "/run/x" },
	"serial long":      func(r *Record) { r.Root.PartUUID, r.Root.Serial = [16]byte{}, strings.Repeat("a", 21) },
	"serial slash":     func(r *Record) { r.Root.PartUUID, r.Root.Serial = [16]byte{}, "a/b" },
	"key short":        func(r *Record) { r.Root.Key = r.Root.Key[:32] },
	"mode 3":           func(r *Record) { r.Data[0].Mode = 3 },
	"offset unaligned": func(r *Record) { r.Root.Offset = 512 },
	"size zero":        func(r *Record) { r.Root.Size = 0 },
	"range overflow":   func(r *Record) { r.Root.Offset = ^uint64(0) - 4095 },
	"file system":      func(r *Record) { r.Root.FSType = "vfat" },
	"no file system":   func(r *Record) { r.Data[0].FSType = "" },
	"root fresh":       func(r *Record) { r.Root = *r.Overlay.Volume; r.Root.ID, r.Root.PartUUID = [16]byte{99}, [16]byte{99} },
	"integrity fresh":  func(r *Record) { r.Data[2].Fresh, r.Data[2].Key, r.Data[2].Template = true, nil, "db.fs" },
	"integrity grows":  func(r *Record) { r.Data[2].Grow = true },
	"grows fresh":      func(r *Record) { r.Overlay.Volume.Grow = true },
	"grows read-only":  func(r *Record) { r.Data[0].ReadOnly = true },
	"no layout":        func(r *Record) { r.Data[2].Integrity = nil },
	"layout too large": func(r *Record) { r.Data[2].Integrity.Provided = r.Data[2].Size },
	"layout unaligned": func(r *Record) { r.Data[2].Integrity.Provided += 512 },
	"no journal":       func(r *Record) { r.Data[2].Integrity.JournalSectors = 0 },
	"interleave":       func(r *Record) { r.Data[2].Integrity.InterleaveSectors = 24 },
	"verity to write":  func(r *Record) { r.Root.ReadOnly, r.Root.FSType, r.Overlay = false, "ext4", nil },
	"no tree":          func(r *Record) { r.Root.Verity = nil },
	"tree in the data": func(r *Record) { r.Root.Verity.HashOffset -= SectorSize },
	"tree outside":     func(r *Record) { r.Root.Verity.HashOffset = r.Root.Size },
	"tree unaligned":   func(r *Record) { r.Root.Verity.HashOffset += 512 },
	"no template":      func(r *Record) { r.Overlay.Volume.Template = "" },
	"template path":    func(r *Record) { r.Overlay.Volume.Template = "../x" },
	"template":         func(r *Record) { r.Data[0].Template = "x" },
	"overlay writable": func(r *Record) {
		r.Root.Mode, r.Root.Verity, r.Root.ReadOnly, r.Root.FSType = Crypt, nil, false, "ext4"
	},
	"overlay nowhere":   func(r *Record) { r.Overlay.Volume = nil },
	"overlay twice":     func(r *Record) { r.Overlay.MemoryMiB = 64 },
	"swap sealed":       func(r *Record) { r.Swap.Fresh, r.Swap.Key = false, bytes.Repeat([]byte{7}, KeySize) },
	"swap file system":  func(r *Record) { r.Swap.FSType, r.Swap.Template = "ext4", "x" },
	"lockdown 3":        func(r *Record) { r.Hardening.Lockdown = 3 },
	"sysctl order":      func(r *Record) { s := r.Hardening.Sysctls; s[0], s[1] = s[1], s[0] },
	"sysctl twice":      func(r *Record) { s := r.Hardening.Sysctls; s[1].Name = s[0].Name },
	"sysctl path":       func(r *Record) { r.Hardening.Sysctls[0].Name = "kernel/sysrq" },
	"sysctl dots":       func(r *Record) { r.Hardening.Sysctls[0].Name = "kernel..sysrq" },
	"sysctl no value":   func(r *Record) { r.Hardening.Sysctls[0].Value = "" },
	"sysctl two lines":  func(r *Record) { r.Hardening.Sysctls[0].Value = "0\n1" },
	"no program":        func(r *Record) { r.Workload.Args = nil },
	"program empty":     func(r *Record) { r.Workload.Args[0] = "" },
	"argument NUL":      func(r *Record) { r.Workload.Args[1] = "a\x00b" },
	"words":             func(r *Record) { r.Workload.Env[0] = "A=" + strings.Repeat("x", MaxText-2); repeatEnv(r) },
	"variable":          func(r *Record) { r.Workload.Env[0] = "=x" },
	"variable twice":    func(r *Record) { r.Workload.Env[1] = "PATH=" },
	"working directory": func(r *Record) { r.Workload.Dir = "/a/" },
	"capability":        func(r *Record) { r.Workload.Capabilities = 1 << 41 },
	"ambient":           func(r *Record) { r.Workload.Ambient = 1 << 8 },
	"no time to stop":   func(r *Record) { r.Workload.StopSeconds = 0 },
	"restart policy":    func(r *Record) { r.Workload.Restart = 3 },
	"half a limit":      func(r *Record) { r.Workload.WindowSecs = 0 },
	"host name":         func(r *Record) { r.Workload.Hostname = "-a" },
	"no address":        func(r *Record) { r.Workload.Network.Source, r.Workload.Network.Addresses = Static, nil },
	"network source":    func(r *Record) { r.Workload.Network.Source = 3 },
	"address zero":      func(r *Record) { r.Workload.Network.Addresses[0] = netip.MustParsePrefix("0.0.0.0/8") },
	"prefix too long": func(r *Record) {
		r.Workload.Network.Addresses[0] = netip.PrefixFrom(netip.MustParseAddr("192.0.2.7"), 33)
	},
	"mapped address": func(r *Record) { r.Workload.Network.NameServers[0] = netip.MustParseAddr("::ffff:192.0.2.1") },
	"two gateways":   func(r *Record) { r.Workload.Network.Gateways[1] = r.Workload.Network.Gateways[0] },
	"MTU":            func(r *Record) { r.Workload.Network.MTU = 100 },
	"search domain":  func(r *Record) { r.Workload.Network.Search[0] = "a..b" },
	"no client":      func(r *Record) { r.Channel.Clients = nil },
	"client zero":    func(r *Record) { r.Channel.Clients[0] = [32]byte{} },
	"client twice":   func(r *Record) { r.Channel.Clients[0] = r.Channel.Clients[1] },
	"secret path":    func(r *Record) { r.Channel.Secrets[0].Name = "../x" },
	"secret mode":    func(r *Record) { r.Channel.Secrets[0].Mode = 0o4755 },
	"secret twice":   func(r *Record) { r.Channel.Secrets = append(r.Channel.Secrets, r.Channel.Secrets[0]) },
}

// exec makes a record one that hands over to an init.
func exec(r *Record) *Exec {
	r.Workload, r.Exec = nil, &Exec{"/sbin/init", 38}
	return r.Exec
}

func repeatEnv(r *Record) {
	for i := range 9 {
		r.Workload.Env = append(r.Workload.Env, strings.Replace(r.Workload.Env[0], "A", strings.Repeat("B", i+1), 1)[:MaxText])
	}
}
