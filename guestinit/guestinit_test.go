package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/secexec/secexec/guestinit/network"
	"github.com/secexec/secexec/proto/readiness"
)

func TestParseUUID(t *testing.T) {
	t.Parallel()
	if got := parseUUID("01020304-0506-0708-090a-0b0c0d0e0fff\n"); got != [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255} {
		t.Errorf("got %x", got)
	}
	for _, s := range []string{"", "0102", "0102030405060708090a0b0c0d0e0fXX", "01020304-0506-0708-090a-0b0c0d0e0fff-00"} {
		if got := parseUUID(s); got != [16]byte{} {
			t.Errorf("%q gives %x", s, got)
		}
	}
}

// docs/errors.md explains each failure in the words that guests use.
func TestFailuresAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, row := range regexp.MustCompile(`(?m)^\| (G\d{3}) \| ([^|]+) \|`).FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2]
	}
	for code, sentence := range readiness.Failures {
		if documented[code] != sentence {
			t.Errorf("docs/errors.md says %q for %s, the guest says %q", documented[code], code, sentence)
		}
		delete(documented, code)
	}
	if len(documented) > 0 {
		t.Errorf("docs/errors.md explains codes that no guest gives: %v", documented)
	}
	for f := failMounts; f <= failDataMount; {
		if readiness.Failures[string(f)] == "" {
			t.Errorf("%s has no sentence", f)
		}
		n, _ := strconv.Atoi(string(f[1:]))
		f = failure(fmt.Sprintf("G%d", n+1))
	}
	for f, err := range map[failure]error{
		failNoNetwork: network.ErrNoInterface, failTwoNetworks: network.ErrTwo, failNetwork: network.ErrSetUp,
		failNoLease: network.ErrNoLease, failNetworkFiles: network.ErrFiles,
	} {
		if got := networkFailure(fmt.Errorf("%w: more", err)); !errors.Is(got, f) || readiness.Failures[string(f)] == "" {
			t.Errorf("%v is %v, wants %s", err, got, f)
		}
	}
	cause := errors.New("cause")
	if err := failRoot.because(cause); !errors.Is(err, failRoot) || !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}
