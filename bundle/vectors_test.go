package bundle

import (
	"errors"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
)

// Another implementation that reads them must come to the same verdicts.
func TestVectors(t *testing.T) {
	t.Parallel()
	vectors.Walk(t, "../docs/formats/vectors/bundle", []string{"ok", "invalid"}, nil, func(t *testing.T, v *vectors.Vector) {
		_, err := ParseManifest(v.Body)
		if ok := v.Expect == "ok"; ok != (err == nil) || !ok && !errors.Is(err, ErrManifest) {
			t.Errorf("got %v", err)
		}
	})
}
