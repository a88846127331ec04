package launch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// bus is systemd, over D-Bus. The connection is made when it is needed and made
// anew after it broke.
type bus struct {
	mu   sync.Mutex // guards conn; held while connecting
	conn *dbus.Conn
}

var _ manager = (*bus)(nil)

// connectTimeout bounds the making of a connection.
const connectTimeout = 5 * time.Second

const (
	systemdName  = "org.freedesktop.systemd1"
	managerIface = systemdName + ".Manager"
	unitIface    = systemdName + ".Unit"
	serviceIface = systemdName + ".Service"
	managerPath  = "/org/freedesktop/systemd1"

	// privateSocket is systemd's own: root reaches it without a bus daemon in
	// between, as systemctl does.
	privateSocket = "unix:path=/run/systemd/private"
	systemSocket  = "unix:path=/run/dbus/system_bus_socket"

	// unitsFolder has a link invocation:UNIT to the ID of the unit's run.
	unitsFolder = "/run/systemd/units"
)

func (b *bus) connect(ctx context.Context) error {
	_, err := b.connection(ctx)
	return err
}

// connection returns a living connection.
func (b *bus) connection(ctx context.Context) (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
	conn, private := dialBus(ctx, privateSocket, false)
	if private != nil {
		var err error
		if conn, err = dialBus(ctx, systemSocket, true); err != nil {
			return nil, fmt.Errorf("%w: %w; %w", ErrNoSystemd, private, err)
		}
	}
	b.conn = conn
	return conn, nil
}

// dialBus connects and says who we are; hello is what a bus daemon wants besides.
func dialBus(ctx context.Context, address string, hello bool) (*dbus.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The connection outlives this call: its context only ends the call.
	conn, err := dbus.Dial(address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	switch {
	case err != nil:
	case hello:
		err = conn.Hello()
	default:
		err = settle(ctx, conn)
	}
	if err == nil && !conn.SupportsUnixFDs() {
		err = errors.New("it passes no file descriptors")
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

// settle waits until systemd reads calls from a new connection to its own socket.
// What arrives together with the last word of the greeting it treats badly (252):
// a call lies unread until the next one comes, and descriptors end the connection.
// So calls that carry none come first, until one is answered.
func settle(ctx context.Context, conn *dbus.Conn) error {
	for patience := 5 * time.Millisecond; ; patience *= 2 {
		ping, cancel := context.WithTimeout(ctx, patience)
		err := conn.Object(systemdName, managerPath).CallWithContext(ping, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) || patience > connectTimeout {
			return err
		}
	}
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// call calls a method and stores its answer. A call that a lost connection cut off
// (systemd executes itself anew when it is upgraded) is made once more: all but
// start come to the same then.
func (b *bus) call(ctx context.Context, path dbus.ObjectPath, method string, answer []any, args ...any) error {
	err := b.callOnce(ctx, path, method, answer, args...)
	if errors.Is(err, ErrNoSystemd) && ctx.Err() == nil {
		err = b.callOnce(ctx, path, method, answer, args...)
	}
	return err
}

func (b *bus) callOnce(ctx context.Context, path dbus.ObjectPath, method string, answer []any, args ...any) error {
	conn, err := b.connection(ctx)
	if err != nil {
		return err
	}
	call := conn.Object(systemdName, path).CallWithContext(ctx, method, 0, args...)
	if err := call.Err; err != nil {
		var refused dbus.Error
		if !errors.As(err, &refused) && ctx.Err() == nil {
			return fmt.Errorf("%w: %s: %w", ErrNoSystemd, method, err)
		}
		return fmt.Errorf("%s: %w", method, err)
	}
	return call.Store(answer...)
}

// start implements manager. It returns once the job is queued.
func (b *bus) start(ctx context.Context, unit string, properties []property) error {
	type auxiliary struct {
		Name       string
		Properties []property
	}
	var job dbus.ObjectPath
	err := b.callOnce(ctx, managerPath, managerIface+".StartTransientUnit", []any{&job}, unit, "fail", properties, []auxiliary{})
	if isError(err, systemdName+".UnitExists") {
		return errUnitExists
	}
	return err
}

func (b *bus) state(ctx context.Context, unit string) (*unitState, error) {
	path := objectPath(unit)
	var u unitState
	var invocation []byte
	for _, p := range []struct {
		iface, name string
		to          any
	}{
		{unitIface, "SubState", &u.Sub}, {unitIface, "InvocationID", &invocation}, {serviceIface, "MainPID", &u.MainPID},
		{serviceIface, "ExecMainCode", &u.Code}, {serviceIface, "ExecMainStatus", &u.Status}, {serviceIface, "Result", &u.Result},
	} {
		var v dbus.Variant
		if err := b.call(ctx, path, "org.freedesktop.DBus.Properties.Get", []any{&v}, p.iface, p.name); err != nil {
			return nil, err
		}
		if err := v.Store(p.to); err != nil {
			return nil, fmt.Errorf("read %s of unit %s: %w", p.name, unit, err)
		}
		if p.name == "MainPID" && !u.ended() {
			break // how it ended is not known yet
		}
	}
	u.Invocation = hex.EncodeToString(invocation)
	return &u, nil
}

// clear implements manager. A unit that is not there is no error.
func (b *bus) clear(ctx context.Context, unit string) error {
	var job dbus.ObjectPath
	err := b.call(ctx, managerPath, managerIface+".StopUnit", []any{&job}, unit, "replace")
	if err == nil {
		err = b.call(ctx, managerPath, managerIface+".ResetFailedUnit", nil, unit)
	}
	if isError(err, systemdName+".NoSuchUnit") {
		return nil
	}
	return err
}

func (b *bus) list(ctx context.Context, pattern string) ([]listed, error) {
	var units []struct {
		Name, Description, Load, Active, Sub, Follows string
		Path                                          dbus.ObjectPath
		JobID                                         uint32
		JobType                                       string
		Job                                           dbus.ObjectPath
	}
	err := b.call(ctx, managerPath, managerIface+".ListUnitsByPatterns", []any{&units}, []string{}, []string{pattern})
	if err != nil {
		return nil, err
	}
	out := make([]listed, len(units))
	for i, u := range units {
		out[i] = listed{u.Name, u.Description}
	}
	return out, nil
}

// holds implements manager. It asks the kernel for the unit, and systemd's files
// for the run of it.
func (b *bus) holds(id Identity) error {
	text, err := readSmall(procFile(id.PID, "cgroup"), 64<<10)
	if err != nil {
		return gone(id.PID, err)
	}
	if !strings.Contains(string(text), "/"+Slice+"/"+id.Unit+"\n") {
		return fmt.Errorf("process %d is not in unit %s: %w", id.PID, id.Unit, ErrGone)
	}
	run, err := os.Readlink(unitsFolder + "/invocation:" + id.Unit)
	if err == nil && run != id.Invocation {
		return fmt.Errorf("unit %s was started anew: %w", id.Unit, ErrGone)
	}
	return nil
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
