package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

func TestParseDisk(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"path=/srv/data.img": `{"path":"/srv/data.img"}`,
		"/srv/data.img":      `{"path":"/srv/data.img"}`,
		"/srv/a=b,readonly":  `{"path":"/srv/a=b","read_only":true}`,
		"data.img":           `{"path":"data.img"}`,
		"path=/srv/data.img,serial=data,bus=virtio-scsi,format=qcow2,cache=direct,discard=unmap,readonly": `{"path":"/srv/data.img","serial":"data","read_only":true,"format":"qcow2","bus":"virtio-scsi","cache":"direct","discard":"unmap"}`,
		"serial=a,path=/x":                         `{"path":"/x","serial":"a"}`,
		"/srv/a,,b,format=raw":                     `{"path":"/srv/a,b","format":"raw"}`,
		"path=/x,bus=scsi,cache=none,readonly=off": `{"path":"/x","bus":"virtio-scsi","cache":"direct"}`,
		"path=/x,bus=virtio,readonly=on":           `{"path":"/x","read_only":true,"bus":"virtio-blk"}`,
		"path=/x,bus=ide":                          `{"path":"/x","bus":"ide"}`, // hostagent knows
		"":                                         "path",
		"serial=a":                                 "names no path",
		"/x,":                                      "none of path=",
		"/x,size=10":                               "none of path=",
		"/x,serial=":                               "none of path=",
		"/x,serial":                                "none of path=",
		"/x,readonly=maybe":                        "on or off",
		"/x,serial=a,serial=b":                     "twice",
		"/x,path=/y":                               "twice",
		"/x\x00":                                   "NUL",
		"path=/x,format=qcow2,backing_store=/etc/shad": "none of path=",
	} {
		d, err := parseDisk(text)
		if !strings.HasPrefix(want, "{") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, %v; want an error about %q", text, d, err, want)
			}
			continue
		}
		got, _ := json.Marshal(d)
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
}

// Paths are as typed from here, unless another machine's hostagent looks for them.
func TestDiskPaths(t *testing.T) {
	t.Parallel()
	here, err := filepath.Abs("data.img")
	if err != nil {
		t.Fatal(err)
	}
	f := deviceFlags{disks: []string{"data.img"}}
	var r hostagentv1.CreateRequest
	near := agentFlags{socket: "/run/x.sock"}
	if err := f.fill(&r, near.path); err != nil || r.Disks[0].Path != here {
		t.Errorf("near: %v %v", r.Disks, err)
	}
	far := agentFlags{socket: "tcp://node:1"}
	if err := f.fill(&r, far.path); err == nil || !strings.Contains(err.Error(), "data.img is looked for on tcp://node:1") {
		t.Errorf("far: %v %v", r.Disks, err)
	}
	f.disks = []string{"/srv/data.img"}
	if err := f.fill(&r, far.path); err != nil || r.Disks[0].Path != "/srv/data.img" {
		t.Errorf("far, absolute: %v %v", r.Disks, err)
	}
}

func TestParseNetwork(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"user":                       `{"kind":"user"}`,
		"user,publish=8443:443":      `{"kind":"user","publish":[{"node_port":8443,"guest_port":443}]}`,
		"user,mac=52:54:00:AB:00:01": `{"kind":"user","mac":"52:54:00:ab:00:01"}`,
		"tap=tap0":                   `{"kind":"tap","tap":"tap0"}`,
		"tap=tap0,mac=02:00:00:00:00:01,queues=4": `{"kind":"tap","tap":"tap0","mac":"02:00:00:00:00:01","queues":4}`,
		"queues=2,tap=tap0":                       `{"kind":"tap","tap":"tap0","queues":2}`,
		"":                                        "none of user",
		"bridge=br0":                              "none of user",
		"default":                                 `"default" is none of user`,
		"mac=02:00:00:00:00:01":                   "neither user nor a tap",
		"tap=":                                    "none of user",
		"user,publish=443":                        "such as 8443:443",
		"user,publish=0:443":                      "such as 8443:443",
		"tap=t,queues=0":                          "from 1 on",
		"tap=t,queues=70000":                      "from 1 on",
		"tap=t,queues":                            "from 1 on",
		"tap=t,tap=u":                             "twice",
	} {
		n, err := parseNetwork(text)
		if !strings.HasPrefix(want, "{") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, %v; want an error about %q", text, n, err, want)
			}
			continue
		}
		got, _ := json.Marshal(n)
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
}

// What secexec inspect says of networks.
func TestNetworkWords(t *testing.T) {
	t.Parallel()
	for want, n := range map[string]*hostagentv1.Network{
		"tap interface tap0, 02:00:00:00:00:01, 2 queues":                       {Kind: "tap", Tap: "tap0", Mac: "02:00:00:00:00:01", Queues: 2},
		"tap interface handed over at /run/a.sock, 02:00:00:00:00:01, 1 queues": {Kind: "handed", Socket: "/run/a.sock", Mac: "02:00:00:00:00:01", Queues: 1},
		"user, 02:00:00:00:00:01, 127.0.0.1:8443 is its port 443":               {Kind: "user", Mac: "02:00:00:00:00:01", Publish: []*hostagentv1.Publish{{NodePort: 8443, GuestPort: 443}}},
	} {
		if got := networkWords(n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
