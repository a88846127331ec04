package platform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxResult bounds the stand-in's result line.
const maxResult = 16 << 10

// result is the one line of JSON that the stand-in prints when it is done.
// Exactly one member is set.
type result struct {
	Running bool          `json:"running,omitempty"` // unpacked, and the guest runs
	Refused *RefusedError `json:"refused,omitempty"` // the image's own fault, or the wrong host
	Failed  string        `json:"failed,omitempty"`  // the stand-in could not do its work
}

func (r result) marshal() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers, texts and truth values only
	}
	return append(text, '\n')
}

// parseResult reads the stand-in's output: one line, nothing before or after it.
func parseResult(text []byte) (result, error) {
	if len(text) >= maxResult || !bytes.HasSuffix(text, []byte("\n")) || bytes.Count(text, []byte("\n")) != 1 {
		return result{}, fmt.Errorf("read result: %d bytes are not one line", len(text))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var r result
	if err := d.Decode(&r); err != nil {
		return result{}, fmt.Errorf("read result: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return result{}, errors.New("read result: text after it")
	}
	if r.Refused != nil {
		r.Refused.Words = oneLine(r.Refused.Words)
	}
	r.Failed = oneLine(r.Failed)
	members := 0
	for _, set := range []bool{r.Running, r.Refused != nil, r.Failed != ""} {
		if set {
			members++
		}
	}
	if members != 1 {
		return result{}, errors.New("read result: not one of running, refused and failed")
	}
	return r, nil
}
