package hostkey

import "fmt"

// Result is how a check ended.
type Result string

// Results. A warning does not refuse a document; what is skipped could not be
// checked because something before it failed.
const (
	OK      Result = "ok"
	Failed  Result = "failed"
	Warning Result = "warning"
	Skipped Result = "skipped"
)

// Check is one line of a report.
type Check struct {
	What    string `json:"check"`                 // dates, signature, revocation, …
	Role    Role   `json:"certificate,omitempty"` // whose
	Subject string `json:"subject,omitempty"`
	File    string `json:"file,omitempty"`
	Result  Result `json:"result"`
	Detail  string `json:"detail,omitempty"` // what was found
	Code    string `json:"code,omitempty"`   // of a failed check, its Reason's
	Remedy  string `json:"remedy,omitempty"` // of a failed check, its Reason's
}

// Report tells what Verify checked, in order.
type Report struct {
	Accepted  bool             `json:"accepted"` // all documents are
	Chain     []Check          `json:"chain"`    // what all documents share
	Documents []DocumentReport `json:"documents"`
}

// DocumentReport is a report's part about one document.
type DocumentReport struct {
	File     string  `json:"file"`
	Subject  string  `json:"subject"`
	Serial   string  `json:"serial"`        // hex
	Hash     string  `json:"host_key_hash"` // hex
	Accepted bool    `json:"accepted"`      // together with the chain
	Checks   []Check `json:"checks"`
	Err      error   `json:"-"` // the first refusal of document or chain
}

// party is a certificate at its place in the chain.
type party struct {
	Cert
	role Role
}

// journal gathers checks and remembers the first refusal.
type journal struct {
	checks []Check
	err    error
	signed bool // the document is, by the signing key
}

func (j *journal) ok(p party, what, format string, args ...any) {
	j.add(p, what, OK, fmt.Sprintf(format, args...))
}

func (j *journal) warn(p party, what, format string, args ...any) {
	j.add(p, what, Warning, fmt.Sprintf(format, args...))
}

func (j *journal) add(p party, what string, result Result, detail string) {
	c := Check{What: what, Role: p.role, File: p.File, Result: result, Detail: detail}
	if p.Certificate != nil {
		c.Subject = name(p.Certificate.Subject)
	}
	j.checks = append(j.checks, c)
}

// fail records a refusal. Causes are wrapped beside the reason.
func (j *journal) fail(p party, what string, why *Reason, detail string, causes ...error) {
	r := &Refusal{Reason: why, Role: p.role, File: p.File, Detail: detail, Causes: causes}
	if p.Certificate != nil {
		r.Subject = name(p.Certificate.Subject)
	}
	j.checks = append(j.checks, Check{
		What: what, Role: p.role, Subject: r.Subject, File: p.File, Result: Failed, Code: why.Code, Detail: r.what(), Remedy: why.Remedy,
	})
	if j.err == nil {
		j.err = r
	}
}
