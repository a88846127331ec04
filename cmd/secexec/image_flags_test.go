package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Combinations of flags that are refused before any work, and why. pvimg
// refuses the first group itself. It lets the second pass: images that no
// machine starts, or that hold no protection.
func TestImageCreateRefusesFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 64), 0o600); err != nil {
		t.Fatal(err)
	}
	const usual = "-i K -k D -o O --no-verify "
	for args, why := range map[string]string{
		// As pvimg.
		"":                                   "required flag",
		"-i K -o O":                          "required flag",
		"-i K -k D":                          "required flag",
		"-k D -o O":                          "required flag",
		"-i K -k D -o O":                     "no certificate to verify",
		usual + "-q -v":                      "exclude each other",
		usual + "-q -V":                      "exclude each other",
		usual + "-i K":                       "--kernel is given twice",
		usual + "--image K -r R --ramdisk R": "is given twice",
		usual + "--output O":                 "--output is given twice",
		usual + "-p P -p P":                  "--parmfile is given twice",
		usual + "--x-comp-key KEY --image-key KEY":                                       "--image-key is given twice",
		usual + "--cck KEY --comm-key KEY":                                               "--cck is given twice",
		usual + "--overwrite --overwrite":                                                "--overwrite is given twice",
		usual + "--x-pcf 0 --x-pcf 0":                                                    "--x-pcf is given twice",
		usual + "--hdr-key=":                                                             "has no value",
		usual + "--hdr-key":                                                              "needs an argument",
		usual + "--enable-dump":                                                          "dump needs a communication key",
		usual + "--enable-dump --disable-dump --cck KEY":                                 "exclude each other",
		usual + "--enable-pckmo --disable-pckmo":                                         "exclude each other",
		usual + "--enable-pckmo-hmac --disable-pckmo-hmac":                               "exclude each other",
		usual + "--enable-backup-keys --disable-backup-keys":                             "exclude each other",
		usual + "--enable-cck-update --disable-cck-update":                               "exclude each other",
		usual + "--enable-image-encryption --disable-image-encryption":                   "exclude each other",
		usual + "--enable-cck-extension-secret":                                          "needs a communication key",
		usual + "--enable-cck-extension-secret --enable-cck-update":                      "excludes updates",
		usual + "--cck KEY --enable-cck-extension-secret --enable-cck-update":            "excludes updates",
		usual + "--cck KEY --enable-cck-extension-secret --disable-cck-extension-secret": "exclude each other",
		usual + "--disable-image-encryption --image-key KEY":                             "excludes --image-key",
		usual + "--x-pcf 0 --enable-pckmo":                                               "exclude --enable-pckmo",
		usual + "--x-scf 0 --disable-dump":                                               "exclude --enable-dump",
		usual + "--x-pcf flags":                                                          "is no hex number of 64 bits",
		usual + "--x-scf 0x10000000000000000":                                            "is no hex number of 64 bits",
		usual + "--no-such-flag":                                                         "unknown flag",

		// Firmware refuses unknown bits.
		usual + "--x-pcf 1":                  "unknown PCF bits",
		usual + "--x-scf 0x8000000000000000": "unknown SCF bits",
		// The rules above hold for bits given by number as well.
		usual + "--x-pcf 0x20000000":                   "dump needs a communication key",
		usual + "--x-scf 0x4000000000000000":           "needs a communication key",
		usual + "--cck KEY --x-scf 0x6000000000000000": "excludes updates",
		usual + "--x-pcf 0x10000000 --image-key KEY":   "excludes --image-key",
		// Instructions stand at even addresses; checked again with the layout known.
		usual + "--x-psw here": "is no hex number of 64 bits",
		// Ours.
		usual + "--x-bootloader-directory .": "its own boot loader",
	} {
		cmd := newRoot()
		cmd.SetArgs(append([]string{"image", "create"}, strings.Fields(strings.ReplaceAll(args, "KEY", key))...))
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, wants %q", args, err, why)
			continue
		}
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q is no usage error: %v", args, err)
		}
	}
}
