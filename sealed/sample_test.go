package sealed

import (
	"bytes"
	"net/netip"
)

func sample() *Record {
	r := &Record{
		IdentitySeed: bytes.Repeat([]byte{0x11}, SeedSize), EntropySeed: bytes.Repeat([]byte{0x12}, SeedSize),
		Modules: []Module{{File: "00-virtio_blk.ko"}, {File: "01-aes_s390.ko", Optional: true}},
		Root: Volume{
			Serial: "root", Key: bytes.Repeat([]byte{0x22}, KeySize),
			Offset: 16 << 20, Size: 64 << 20, FSType: "ext4",
		},
		Exec: &Exec{Init: "/sbin/init", StopSignal: 38},
	}
	copy(r.ImageID[:], "image-identity-1")
	copy(r.Root.ID[:], "volume-identity1")
	return r
}

func volume(n byte, kind string) Volume {
	return Volume{ID: [16]byte{n}, PartUUID: [16]byte{n, 1}, Key: bytes.Repeat([]byte{n}, KeySize), Offset: 16 << 20, Size: 1 << 20, FSType: kind, ReadOnly: kind == "erofs"}
}

// data is a record with volumes in partitions and all file systems.
func data() *Record {
	r := sample()
	r.Root.Serial, r.Root.PartUUID, r.Root.FSType = "", [16]byte{0xaa, 0xbb}, "xfs"
	r.Data = []DataVolume{{volume(3, "ext4"), "/srv"}, {volume(4, "erofs"), "/srv/models"}, {volume(5, "xfs"), "/var/lib/db"}}
	r.Data[2].Serial, r.Data[2].PartUUID = "db", [16]byte{}
	r.Data[0].Grow = true
	return r
}

// full is a record with all that goes together: a verified root under an
// overlay, authenticated and fresh volumes, swap, a workload, the channel.
func full() *Record {
	r := data()
	r.Root.FSType, r.Root.ReadOnly, r.Root.Mode = "erofs", true, Verity
	r.Root.Verity = &VerityTree{RootHash: [32]byte{1}, Salt: [32]byte{2}, DataSize: 32 << 20, HashOffset: 32 << 20}
	over, swap := volume(6, "ext4"), volume(7, "")
	over.Fresh, over.Key, over.Template = true, nil, "overlay.fs"
	swap.Fresh, swap.Key = true, nil
	r.Overlay, r.Swap = &Overlay{Volume: &over}, &swap
	db := &r.Data[2]
	db.Mode, db.Key = Integrity, bytes.Repeat([]byte{5}, IntegrityKeySize)
	db.Integrity = &IntegrityLayout{Provided: 1 << 19, JournalSectors: 128, InterleaveSectors: 32768}
	r.Hardening = Hardening{Lockdown: LockdownIntegrity, LockModules: true, HidePID: true, Sysctls: []Sysctl{{"kernel.sysrq", "0"}, {"net.ipv4.tcp_rmem", "4096 1\t2"}}}
	r.Exec, r.Ready = nil, ReadyAtNotify
	r.Workload = &Workload{
		Args: []string{"/bin/app", "", "--x=\n"}, Env: []string{"PATH=/bin", "EMPTY="}, UID: 1000, GID: 1001, Groups: []uint32{5, 6}, Dir: "/",
		Capabilities: 1<<10 | 1<<7, Ambient: 1 << 10, NoNewPrivs: true, StopSignal: 15, StopSeconds: 10, Restart: RestartOnFailure, MaxRestarts: 5, WindowSecs: 60, Hostname: "app-1.example.com",
		Network: &Network{
			Source: DHCP, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}, MTU: 1400,
			NameServers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Search: []string{"example.com"},
		},
	}
	r.Channel = &Channel{Clients: [][32]byte{{9}, {8}}, Exec: true, Secrets: []SecretFile{{"token", 1000, 1001, 0o400}}}
	return r
}

// hostNetwork is a record of a workload whose network the host describes.
func hostNetwork() *Record {
	r := full()
	r.Workload.Network = &Network{Source: Host}
	return r
}
