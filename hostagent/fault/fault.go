// Package fault is what goes wrong in hostagent, as users and scripts see it: a
// stable code, a sentence that names the thing, and a remedy. docs/errors.md
// lists the codes; a test compares.
package fault

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
)

// Code is a stable code.
type Code string

// The codes of hostagent. Those of guests begin with G and come from guestinit.
const (
	Bundle        Code = "H201"
	NoSlot        Code = "H202"
	NameTaken     Code = "H203"
	NoGuest       Code = "H204"
	WrongState    Code = "H205"
	QEMU          Code = "H206"
	Node          Code = "H207"
	Launch        Code = "H208"
	Refused       Code = "H209"
	NotReady      Code = "H210"
	EndedEarly    Code = "H211"
	GuestPanic    Code = "H212"
	Interrupted   Code = "H213"
	NoAnswer      Code = "H214"
	NotPermitted  Code = "H215"
	BadRequest    Code = "H216"
	Storage       Code = "H217"
	QEMUDied      Code = "H218"
	Internal      Code = "H219"
	RestartsSpent Code = "H220"
	NodeDown      Code = "H221"
	EventsGone    Code = "H222"
	Quota         Code = "H223"
	Path          Code = "H224"
	Limit         Code = "H225"
	AdminOnly     Code = "H226"
	TooLarge      Code = "H227"
	Promised      Code = "H228"
	ImageKind     Code = "H229"
	DiskInUse     Code = "H230"
	Impossible    Code = "H231"
	NoDump        Code = "H232"
	Disk          Code = "H233"
	DiskImage     Code = "H234"
	Network       Code = "H235"
	Moving        Code = "H237"
	Moved         Code = "H238"
	Altered       Code = "H239"
	Unfit         Code = "H240"
	NoSystemd     Code = "H241"
	UnitTaken     Code = "H242"
	OutOfMemory   Code = "H243"
	NoChannel     Code = "H244"
	Workload      Code = "H249"
)

// entry is a code's meaning, remedy and ttrpc status.
type entry struct {
	Meaning, Remedy string
	status          codes.Code
}

// Table has all of hostagent's codes.
var table = map[Code]entry{
	Bundle:        {"the bundle is missing, incomplete or damaged", "transfer the bundle again", codes.FailedPrecondition},
	NoSlot:        {"the image has no key slot for this node", "run it on a host that has one, or ask the owner to add this node's host key", codes.FailedPrecondition},
	NameTaken:     {"a guest of this name exists", "choose another name with --name, or remove the guest with secexec rm", codes.AlreadyExists},
	NoGuest:       {"there is no guest of this name", "see secexec ps --all", codes.NotFound},
	WrongState:    {"the guest is in a state that does not allow this", "see secexec inspect", codes.FailedPrecondition},
	QEMU:          {"QEMU is missing or too old", "install QEMU 7.2 or later for s390x (Debian: qemu-system-misc)", codes.FailedPrecondition},
	Node:          {"this node can't run sealed guests", "see secexec node", codes.FailedPrecondition},
	Launch:        {"QEMU could not be launched", "see the guest's qemu.log in the state folder", codes.Unavailable},
	Refused:       {"the ultravisor refused the image", "transfer the bundle again; if that does not help it was sealed for another host or changed", codes.PermissionDenied},
	NotReady:      {"the guest did not become ready in time", "see secexec logs; allow more time with hostagent's --ready-timeout", codes.DeadlineExceeded},
	EndedEarly:    {"the guest ended before it was ready", "see secexec logs", codes.Aborted},
	GuestPanic:    {"the guest's kernel panicked", "see secexec logs", codes.Aborted},
	Interrupted:   {"hostagent ended while the guest started", "start the guest again", codes.Aborted},
	NoAnswer:      {"the guest does not answer the challenge", "try again; see secexec logs", codes.Unavailable},
	NotPermitted:  {"the caller may not use this hostagent", "call as root, or as a member of the groups that --group and --tenants-group name", codes.PermissionDenied},
	BadRequest:    {"the request is not valid", "see secexec help", codes.InvalidArgument},
	Storage:       {"the state folder can't be written", "free space and check the permissions of hostagent's --state folder", codes.ResourceExhausted},
	QEMUDied:      {"QEMU ended unexpectedly", "see the guest's qemu.log in the state folder", codes.Aborted},
	Internal:      {"hostagent failed inside", "report a bug with hostagent's log", codes.Internal},
	RestartsSpent: {"the guest ended too often: its restarts are spent", "see secexec logs; secexec start begins to count anew", codes.Aborted},
	NodeDown:      {"the node went down while the guest ran", "start the guest again; run it with --autostart to have it started when the node boots", codes.Aborted},
	EventsGone:    {"the events asked for are gone", "list the guests, then follow events from now on", codes.OutOfRange},
	Quota:         {"the tenant's quota does not allow another guest of this size", "remove a guest with secexec rm, or ask the node's operator for more (tenant_quotas in hostagent.yaml)", codes.ResourceExhausted},
	Path:          {"the path is not one that the caller may name", "put it beneath one of hostagent.yaml's bundle_roots, tenant_roots or disk_roots, readable for the caller", codes.PermissionDenied},
	Limit:         {"the caller has too much under way at once", "wait for calls to end, and close connections that are not used", codes.ResourceExhausted},
	AdminOnly:     {"only administrators may do this", "ask the node's operator, or call as root or as a member of the group that --group names", codes.PermissionDenied},
	TooLarge:      {"the guest wants more than this node or its ultravisor has for one", "give it less memory or fewer CPUs, or run it on a larger node", codes.FailedPrecondition},
	Promised:      {"the node has no room for another guest", "stop a guest, run this one on another node, or see memory_ratio in hostagent.yaml", codes.ResourceExhausted},
	ImageKind:     {"this node's ultravisor takes no such image", "run it on a newer machine, or ask the owner to seal it without what the message names", codes.FailedPrecondition},
	DiskInUse:     {"a disk of the guest is in use", "stop the guest that uses it, or attach it read-only to both", codes.FailedPrecondition},
	Impossible:    {"Secure Execution has no such thing", "leave it out: docs/platforms.md says why and what there is instead", codes.InvalidArgument},
	NoDump:        {"the guest can't be dumped", "see docs/platforms.md on dumps; an owner allows them by secexec build --enable-dump", codes.FailedPrecondition},
	Disk:          {"a disk can't be attached", "name a file or block device that exists and that hostagent may open, as its format and cache mode need it", codes.FailedPrecondition},
	DiskImage:     {"a disk's image is not of its format, or has QEMU open further files", "state the image's format; make it stand alone with qemu-img convert", codes.FailedPrecondition},
	Network:       {"a network can't be attached", "make the tap interface before the guest starts, of as many queues, and let no other guest have it", codes.FailedPrecondition},
	Moving:        {"a move of the guest is not finished", "finish it with secexec move GUEST, or undo it with secexec move --abort GUEST", codes.FailedPrecondition},
	Moved:         {"the guest was moved to another node", "run it there; secexec inspect names the node", codes.FailedPrecondition},
	Altered:       {"what arrived is not what was sent", "run secexec move again; if that does not help look at the disks and memory of both nodes", codes.DataLoss},
	Unfit:         {"the guest can't be moved to that node", "see secexec move --dry-run", codes.FailedPrecondition},
	NoSystemd:     {"systemd can't be reached to launch QEMU", "see that /run/systemd/private or the system bus is there, or set launcher: direct in hostagent.yaml", codes.Unavailable},
	UnitTaken:     {"a QEMU of this guest runs already", "see systemctl status of its unit; another hostagent on this node may have a guest of this name", codes.AlreadyExists},
	Workload:      {"the guest's program ended with an exit status that is not 0", "see secexec logs; 128 and more is a signal", codes.Aborted},
	OutOfMemory:   {"QEMU was ended for want of memory", "see the unit's messages in the journal; the node may have given out more memory than it has", codes.ResourceExhausted},
	NoChannel:     {"the owner's channel into the guest can't be reached", "wait for the client that is connected; a guest that an older hostagent started has no channel until it is started again", codes.Unavailable},
}

// Error is a failure with its code.
type Error struct {
	Code    Code
	Message string // a sentence that names the thing
	Remedy  string
	cause   error
}

// New makes an error of a code. The message says what happened to what; the
// remedy is the code's.
func New(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Remedy: table[code].Remedy, cause: errors.Unwrap(wrapped)}
}

// Error shows code, message and remedy in one line.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Message, e.Remedy)
}

// Unwrap returns what New's %w wrapped.
func (e *Error) Unwrap() error { return e.cause }

// Status is the ttrpc status of a code; codes of guests are Aborted.
func (c Code) Status() codes.Code {
	if e, ok := table[c]; ok {
		return e.status
	}
	return codes.Aborted
}

// As returns err's *Error, or one of code Internal.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(Internal, "%w", err)
}
