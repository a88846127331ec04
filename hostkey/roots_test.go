package hostkey_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

func TestSystemRoots(t *testing.T) {
	w := ht.World{Now: time.Now()}
	m := must(w.Make())(t)
	inter := []hostkey.Cert{{Certificate: m.Certs[ht.Inter]}}
	root, host := certPEM(m.Certs[ht.Root]), certPEM(m.Certs[ht.Host])
	dir, other := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "roots.pem")
	for path, data := range map[string][]byte{
		file:                      bytes.Join([][]byte{host, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), root, host}, nil),
		filepath.Join(other, "a"): []byte("text"), filepath.Join(other, "b"): host,
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what, file, dirs string
		want             int
		err              error
	}{
		{"a file", file, "", 1, nil},
		{"folders", "", other + ":" + dir + ":/absent", 1, nil},
		{"both", file, dir, 2, nil},
		{"none that issued it", "", other, 0, nil},
		{"no such file", file + "x", "", 0, hostkey.ErrNoSystemRoots},
		{"a folder in place of a file", dir, "", 0, hostkey.ErrNoSystemRoots},
	} {
		t.Setenv("SSL_CERT_FILE", c.file)
		t.Setenv("SSL_CERT_DIR", c.dirs)
		roots, err := hostkey.SystemRoots(inter)
		if !errors.Is(err, c.err) || len(roots) != c.want {
			t.Errorf("%s: %d roots, %v", c.what, len(roots), err)
		}
		for _, r := range roots {
			if !r.Equal(m.Certs[ht.Root]) {
				t.Errorf("%s: got %s", c.what, r.Subject)
			}
		}
	}
}
