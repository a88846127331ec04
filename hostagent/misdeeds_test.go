package main

import "net"

// misdeed is what a QEMU, or the guest in it, does instead of what it should.
type misdeed struct {
	begins func(*fake)
	qmp    func(*fake, net.Conn)
	port   func(*fake, net.Conn)
}

// misdeeds by the first word of a guest's name.
var misdeeds = map[string]misdeed{}
