package journal

import "log/slog"

// Key is the attribute that names a log line's event. A text log shows the
// event's name; the journal gets its identifier as MESSAGE_ID.
const Key = "event"

// Event is a kind of log line that operators may match on. Neither name nor
// identifier ever changes. docs/logs.md and systemd/secexec.catalog list them;
// tests compare.
type Event struct {
	ID   string // MESSAGE_ID: 128 bits in lower-case hex
	Name string
}

// String is the event's name.
func (e Event) String() string { return e.Name }

// event makes the attribute that a call of slog takes: log.Info("…", journal.Adopted, …).
func event(id, name string) slog.Attr { return slog.Any(Key, Event{id, name}) }

// The events.
var (
	Serving    = event("badb8b0d30724d5c952b115896728860", "hostagent-serving")
	Ending     = event("6d5ddeea1de24d05b0d969057bbc17ad", "hostagent-ending")
	State      = event("95254fb487fd45c0960cf49523504824", "guest-state")
	Failed     = event("a8726ae3831d49aa9cc0385c0eb4b50d", "guest-failed")
	Deleted    = event("3ea8cde1d6f246f28af97422f34d9a36", "guest-deleted")
	Restarted  = event("2220e4f86f45435e8bd996bee45a68ea", "guest-restarted")
	Adopted    = event("2b40775a0bac49648b68954c00f54d15", "guest-adopted")
	Moving     = event("b22ac097a0cc42dcadf63f072a5b4024", "guest-moving")
	NoMonitor  = event("52e1fd8b01b444d9b581c004d345159e", "guest-without-monitor")
	Settled    = event("0c800db83e0348ecb0e7d4a2d46bef60", "guest-settled")
	Unsettled  = event("a4c2e67865d64d36b93fbc8149f60c24", "guest-not-settled")
	Damaged    = event("62f7e7345175466885bcbcdd2bd40cff", "record-damaged")
	Refused    = event("4dc82ff784ea4cd59df95f71851bb6cd", "call-refused")
	TurnedAway = event("6de87d7dd240433aaafe9352b99ff244", "caller-turned-away")
	SlowReader = event("7f6f0f4afc954d96b925fc357637576a", "slow-reader-cut")
	NodeUnfit  = event("0c4c67a857ae44e3b8d082d83369235a", "node-unfit")
	NodeFit    = event("6f0904f66393463783d88742b41feb17", "node-fit")
	Problem    = event("651bb3676a58401e83d71b77ba405e2b", "health-problem")
	Recovered  = event("19f80cee63c744089d045096c130dd67", "health-recovered")
	Stuck      = event("f641bb15cd65404ab445be7984c2aa18", "hostagent-stuck")
)

// Events lists all of them.
func Events() []Event {
	var out []Event
	for _, a := range []slog.Attr{
		Serving, Ending, State, Failed, Deleted, Restarted, Adopted, Moving, NoMonitor, Settled, Unsettled, Damaged, Refused,
		TurnedAway, SlowReader, NodeUnfit, NodeFit, Problem, Recovered, Stuck,
	} {
		out = append(out, a.Value.Any().(Event))
	}
	return out
}
