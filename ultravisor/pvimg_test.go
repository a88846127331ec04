package ultravisor

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/secexec/secexec/seimage"
)

// What s390-tools' own tool makes comes apart here, with a host's key and with
// the owner's.
func TestUnpackPvimgsImages(t *testing.T) {
	t.Parallel()
	pvimg, err := exec.LookPath(cmp.Or(os.Getenv("SECEXEC_PVIMG"), "pvimg"))
	if err != nil {
		t.Skip("pvimg is not installed")
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "host"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	key := testHosts()[0]
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	headerKey := bytes.Repeat([]byte{9}, seimage.HeaderKeySize)
	kernel, initrd := testKernel(nil), bytes.Repeat([]byte("initrd "), 1000)
	for name, b := range map[string][]byte{
		"host.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"kernel":   kernel, "initrd": initrd, "parmfile": []byte("quiet\n"), "header.key": headerKey,
	} {
		if err := os.WriteFile(path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"-r", path("initrd"), "-p", path("parmfile")},
		{"-r", path("initrd"), "--disable-image-encryption"},
		{"-p", path("parmfile"), "--enable-pckmo-hmac"},
		{},
	} {
		args = append([]string{"create", "-q", "--no-verify", "--overwrite", "-k", path("host.crt"), "-i", path("kernel"), "--hdr-key", path("header.key"), "-o", path("out")}, args...)
		if out, err := exec.CommandContext(t.Context(), pvimg, args...).CombinedOutput(); err != nil {
			if bytes.Contains(out, []byte("stage3")) {
				t.Skip("pvimg is installed without its boot loader")
			}
			t.Fatalf("pvimg %v: %v\n%s", args, err, out)
		}
		image, err := os.ReadFile(path("out"))
		if err != nil {
			t.Fatal(err)
		}
		for who, open := range map[string]func() (*Unpacked, error){
			"host": func() (*Unpacked, error) { return OpenFile(bytes.NewReader(image), int64(len(image)), host(t, 0)) },
			"owner": func() (*Unpacked, error) {
				return OpenFileAsOwner(bytes.NewReader(image), int64(len(image)), headerKey)
			},
		} {
			u, err := open()
			if err != nil {
				t.Fatalf("%s: %v: %v", who, args, err)
			}
			r, _ := u.Kernel()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, kernel) {
				t.Errorf("%s: %v: kernel of %d bytes, %v", who, args, len(got), err)
			}
			r, n := u.Initrd()
			if got, err := io.ReadAll(r); err != nil || n != 0 && !bytes.Equal(got, initrd) {
				t.Errorf("%s: %v: initrd of %d bytes, %v", who, args, len(got), err)
			}
			if u.Image.ArgsAddr == 0 {
				t.Errorf("%s: %v: stage3a's arguments not found", who, args)
			}
			u.Wipe()
		}
	}
}
