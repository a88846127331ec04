// Package deviceplugin offers units of an extended resource to kubelet, by its
// device plugin API.
//
// The plugin listens on a socket in kubelet's folder and registers it; kubelet
// connects, asks for a stream of devices and holds it for as long as it lives. A
// kubelet that starts removes all sockets in that folder, so a stream that ended
// means: make the socket anew and register again.
//
//	plugin                                kubelet
//	  │ listens on secexec.sock              │
//	  │ ── Register(secexec.sock, name) ───▶ │ kubelet.sock
//	  │ ◀── GetDevicePluginOptions ───────── │
//	  │ ◀── ListAndWatch ─────────────────── │
//	  │ ── devices, and again as they change ▶│
//	  │ ◀── Allocate(devices) ────────────── │ a pod was bound to the node
package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Dir is kubelet's folder of sockets.
const Dir = "/var/lib/kubelet/device-plugins"

// kubeletSocket is where kubelet takes registrations, in its folder.
const kubeletSocket = "kubelet.sock"

// Times.
const (
	registerTimeout = 20 * time.Second // kubelet connects to the plugin before it answers
	attachTimeout   = 20 * time.Second // from its answer to the stream
	writeTimeout    = 20 * time.Second
	minPause        = 500 * time.Millisecond // between two tries
	maxPause        = 10 * time.Second
)

// Plugin offers one resource. Set its fields before Run.
type Plugin struct {
	Dir      string // kubelet's folder; "": Dir
	Socket   string // plain name of the plugin's own socket there
	Resource string // name of the resource
	Log      *slog.Logger

	mu      sync.Mutex
	devices []Device
	problem string        // why devices are not healthy
	changed chan struct{} // closed when devices are others
	held    bool          // kubelet holds a stream
}

// New makes a plugin without devices.
func New(dir, socket, resource string, log *slog.Logger) *Plugin {
	if dir == "" {
		dir = Dir
	}
	return &Plugin{Dir: dir, Socket: socket, Resource: resource, Log: log, changed: make(chan struct{})}
}

// Set says which devices there are, and why some are not healthy.
func (p *Plugin) Set(devices []Device, problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = problem
	if slices.Equal(p.devices, devices) {
		return
	}
	p.devices = slices.Clone(devices)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Plugin) list() ([]Device, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.devices, p.changed
}

// Attached tells whether kubelet knows the devices.
func (p *Plugin) Attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

func (p *Plugin) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
}

// Run offers the devices until the context is done, through restarts of kubelet.
func (p *Plugin) Run(ctx context.Context) {
	pause, told := minPause, ""
	for {
		held, err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if held {
			pause, told = minPause, ""
			p.Log.Warn("kubelet gave up its connection; registering again", "resource", p.Resource)
		} else if err != nil && err.Error() != told {
			told = err.Error()
			p.Log.Warn("can't register at kubelet; trying again", "resource", p.Resource, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// once registers and serves for as long as kubelet holds its stream; held says
// whether it ever did.
func (p *Plugin) once(ctx context.Context) (held bool, err error) {
	path := filepath.Join(p.Dir, p.Socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return false, fmt.Errorf("listen for kubelet: %w", err)
	}
	session := &session{Plugin: p, begun: make(chan struct{}), ended: make(chan struct{})}
	server := &http.Server{Handler: session, Protocols: plaintext(), ReadHeaderTimeout: writeTimeout, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)}
	served := make(chan struct{})
	go func() { // ends with the server, which is closed below
		defer close(served)
		_ = server.Serve(listener)
	}()
	defer func() {
		server.Close() // the listener removes its socket
		<-served
	}()
	registering, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	if _, err := invoke(registering, filepath.Join(p.Dir, kubeletSocket), "/"+Version+".Registration/Register", registerRequest(p.Socket, p.Resource)); err != nil {
		return false, fmt.Errorf("register %s: %w", p.Resource, err)
	}
	select {
	case <-session.begun:
	case <-time.After(attachTimeout):
		return false, fmt.Errorf("register %s: kubelet took the registration but asks for no devices", p.Resource)
	case <-ctx.Done():
		return false, nil
	}
	p.hold(true)
	defer p.hold(false)
	devices, _ := p.list()
	p.Log.Info("kubelet knows the resource", "resource", p.Resource, "devices", len(devices))
	select {
	case <-session.ended:
	case <-ctx.Done():
	}
	return true, nil
}

// session is what kubelet does after one registration: the DevicePlugin service,
// until the first of its streams ends.
type session struct {
	*Plugin
	begin, end   sync.Once
	begun, ended chan struct{}
}

// ServeHTTP implements http.Handler.
func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), contentType) {
		http.Error(w, "this is gRPC", http.StatusUnsupportedMediaType)
		return
	}
	w.Header().Set("Content-Type", contentType)
	request, err := readMessage(r.Body)
	if err != nil {
		outcome(w, codeInvalidArgument, err.Error())
		return
	}
	switch strings.TrimPrefix(r.URL.Path, "/"+Version+".DevicePlugin/") {
	case "GetDevicePluginOptions": // none of them
		_, _ = w.Write(frame(nil))
	case "ListAndWatch":
		s.listAndWatch(w, r)
	case "Allocate":
		s.allocate(w, request)
		return
	default:
		outcome(w, codeUnimplemented, "no such call: "+r.URL.Path)
		return
	}
	outcome(w, codeOK, "")
}

// listAndWatch sends the devices, and again whenever they are others.
func (s *session) listAndWatch(w http.ResponseWriter, r *http.Request) {
	s.begin.Do(func() { close(s.begun) })
	defer s.end.Do(func() { close(s.ended) })
	control := http.NewResponseController(w)
	for {
		devices, changed := s.list()
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(frame(listAndWatchResponse(devices))); err != nil || control.Flush() != nil {
			return
		}
		_ = control.SetWriteDeadline(time.Time{})
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// allocate gives devices to containers. There is nothing to prepare: it refuses
// what was true when kubelet chose and is not any more.
func (p *Plugin) allocate(w http.ResponseWriter, request []byte) {
	containers, err := parseAllocateRequest(request)
	if err != nil {
		outcome(w, codeInvalidArgument, err.Error())
		return
	}
	p.mu.Lock()
	devices, problem := p.devices, p.problem
	p.mu.Unlock()
	for _, id := range slices.Concat(containers...) {
		i := slices.IndexFunc(devices, func(d Device) bool { return d.ID == id })
		switch {
		case i < 0:
			outcome(w, codeInvalidArgument, fmt.Sprintf("%s %.70q is not there any more", p.Resource, id))
			return
		case !devices[i].Healthy:
			outcome(w, codeFailedPrecondition, fmt.Sprintf("no guest can start on this node: %.500s", problem))
			return
		}
	}
	if _, err := w.Write(frame(allocateResponse(len(containers)))); err == nil {
		outcome(w, codeOK, "")
	}
}
