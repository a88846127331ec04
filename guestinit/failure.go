package main

import (
	"fmt"

	"github.com/secexec/secexec/proto/readiness"
)

// failure is why guestinit gives up: a stable code, whose sentence is in
// readiness.Failures. A cause stays in the guest.
type failure string

const (
	failMounts   failure = "G101"
	failRecord   failure = "G102"
	failModule   failure = "G103"
	failNoDisk   failure = "G104"
	failTwoDisks failure = "G105"
	failDiskSize failure = "G106"
	failCrypt    failure = "G107"
	failRoot     failure = "G108"
	failInit     failure = "G109"
	failAgent    failure = "G110"
	failHandover failure = "G111"
	failInternal failure = "G112"
	failTooSlow  failure = "G113"

	failNoData    failure = "G114"
	failTwoData   failure = "G115"
	failDataSize  failure = "G116"
	failDataCrypt failure = "G117"
	failData      failure = "G118"
	failDataMount failure = "G119"

	failIntegrity failure = "G120"
	failForged    failure = "G121"

	failVerity  failure = "G125"
	failOverlay failure = "G126"

	failFreshKey failure = "G130"
	failEmpty    failure = "G131"
	failSwap     failure = "G132"
	failGrow     failure = "G133"

	failSysctl  failure = "G135"
	failEntropy failure = "G136"
	failLock    failure = "G137"

	failNoNetwork    failure = "G150"
	failTwoNetworks  failure = "G151"
	failNetwork      failure = "G152"
	failNoLease      failure = "G153"
	failNetworkFiles failure = "G154"

	failSecrets failure = "G155"

	failNoDescription failure = "G156"
	failDescription   failure = "G157"
)

// Error returns code and sentence: all that leaves the guest.
func (f failure) Error() string { return string(f) + ": " + readiness.Failures[string(f)] }

// because joins a failure with its cause, for tests; the cause is never shown.
func (f failure) because(err error) error { return fmt.Errorf("%w: %w", f, err) }
