package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// readHandoff takes the file with the handoff from guestinit's first packet,
// reads it, and wipes its memory.
func readHandoff() (*sealed.Handoff, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(initFD, make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive handoff: %w", err)
	}
	file, err := descriptor(rights[:n])
	if err != nil {
		return nil, fmt.Errorf("receive handoff: %w", err)
	}
	defer unix.Close(file)
	raw := make([]byte, sealed.MaxHandoff+1)
	defer clear(raw)
	if n, err = unix.Pread(file, raw, 0); err != nil {
		return nil, fmt.Errorf("read handoff: %w", err)
	}
	h, err := sealed.UnmarshalHandoff(raw[:n])
	if err != nil {
		return nil, err
	}
	if _, err := unix.Pwrite(file, make([]byte, n), 0); err != nil {
		return nil, fmt.Errorf("wipe handoff: %w", err)
	}
	return h, nil
}

// descriptor takes the one descriptor out of a packet's control data.
func descriptor(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1, err
	}
	if len(messages) != 1 {
		return -1, errors.New("no file in the packet")
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	if len(files) != 1 {
		return -1, errors.New("not one file in the packet")
	}
	return files[0], nil
}
