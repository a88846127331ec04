package main

import (
	"errors"

	"github.com/secexec/secexec/guestinit/network"
)

// networkFailure is the code of an error of network.Up.
func networkFailure(err error) error {
	for _, known := range []struct {
		err  error
		code failure
	}{
		{network.ErrNoInterface, failNoNetwork}, {network.ErrTwo, failTwoNetworks},
		{network.ErrNoLease, failNoLease}, {network.ErrFiles, failNetworkFiles},
		{network.ErrNoDescription, failNoDescription}, {network.ErrDescription, failDescription},
	} {
		if errors.Is(err, known.err) {
			return known.code.because(err)
		}
	}
	return failNetwork.because(err)
}
