package seimage

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var someMeta = NewInfoMeta("1.0", "workstation", time.Unix(1770912807, 0))

// validate checks a document against a schema.
func validate(t *testing.T, schema, document []byte) error {
	t.Helper()
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", parsed); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	return compiled.Validate(v)
}

func TestInfoSchema(t *testing.T) {
	t.Parallel()
	key := filled(HeaderKeySize, 9)
	s := spec(t)
	s.HeaderKey, s.Hosts = key, hosts(t, 2)
	made, err := Create(t.Context(), &buffer{}, s)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := made.Header.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer secrets.Wipe()
	for name, info := range map[string]*Info{
		"not verified": NewInfo(made.Header, false, nil, someMeta),
		"verified":     NewInfo(made.Header, true, nil, someMeta),
		"decrypted":    NewInfo(made.Header, true, secrets, someMeta),
	} {
		for _, minify := range []bool{false, true} {
			b, err := info.JSON(minify)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, InfoSchema, b); err != nil {
				t.Errorf("%s: %v\n%s", name, err, b)
			}
			if lines := bytes.Count(b, []byte("\n")); minify != (lines == 1) {
				t.Errorf("%s: %d lines, minify %v", name, lines, minify)
			}
		}
	}
	// The schema finds what is wrong.
	b, err := NewInfo(made.Header, true, secrets, someMeta).JSON(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range [][2]string{
		{`"api_level":1`, `"api_level":2`}, {`"kind":"decrypted_se_hdr"`, `"kind":"se_hdr"`}, {`"verified":true`, `"verified":false`},
		{`"nks":2`, `"nks":0`}, {`"iv_hex":"`, `"iv_hex":"0`}, {`"scf_hex"`, `"scf"`}, {`"sehs"`, `"extra":1,"sehs"`},
	} {
		bad := strings.Replace(string(b), edit[0], edit[1], 1)
		if bad == string(b) {
			t.Errorf("no %s in %s", edit[0], b)
		} else if err := validate(t, InfoSchema, []byte(bad)); err == nil {
			t.Errorf("%s passes", edit[1])
		}
	}
}

func TestInfoKeepsSecrets(t *testing.T) {
	t.Parallel()
	h := sampleHeader(t)
	b, err := NewInfo(h, true, nil, someMeta).JSON(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cck_hex", "xts_hex", "scf_hex", "psw"} {
		if bytes.Contains(b, []byte(name)) {
			t.Errorf("holds %s: %s", name, b)
		}
	}
}

// pvimgPath finds s390-tools' own program.
func pvimgPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("SECEXEC_PVIMG"), "pvimg"))
	if err != nil {
		t.Skip("pvimg is not installed")
	}
	return path
}

// For the same image our document is pvimg's to the last byte, but for who made
// it and when; each satisfies the other's schema.
func TestInfoEqualsPvimg(t *testing.T) {
	t.Parallel()
	pvimg := pvimgPath(t)
	dir := t.TempDir()
	image, keyFile := filepath.Join(dir, "boot.seimg"), filepath.Join(dir, "header.key")
	key := filled(HeaderKeySize, 9)
	s := spec(t)
	s.HeaderKey, s.Hosts = key, hosts(t, 3)
	var out buffer
	made, err := Create(t.Context(), &out, s)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := made.Header.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer secrets.Wipe()
	for path, data := range map[string][]byte{image: out.b, keyFile: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) []byte {
		t.Helper()
		b, err := exec.CommandContext(t.Context(), pvimg, append([]string{"info"}, args...)...).Output()
		if err != nil {
			t.Fatalf("pvimg info %v: %v", args, err)
		}
		return b
	}
	schema := run("--print-schema", "json")
	for _, c := range []struct {
		args []string
		info *Info
	}{
		{nil, NewInfo(made.Header, false, nil, someMeta)},
		{[]string{"--hdr-key", keyFile}, NewInfo(made.Header, true, nil, someMeta)},
		{[]string{"--hdr-key", keyFile, "--show-secrets"}, NewInfo(made.Header, true, secrets, someMeta)},
	} {
		for _, format := range []string{"json:pretty", "json:minify"} {
			theirs := run(append(c.args, "--format", format, image)...)
			var read struct{ Meta InfoMeta }
			if err := json.Unmarshal(theirs, &read); err != nil {
				t.Fatal(err)
			}
			c.info.Meta = read.Meta
			ours, err := c.info.JSON(format == "json:minify")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours, theirs) {
				t.Errorf("%v %s: ours\n%s\npvimg's\n%s", c.args, format, ours, theirs)
			}
			if err := validate(t, schema, ours); err != nil {
				t.Errorf("pvimg's schema: %v", err)
			}
			if err := validate(t, InfoSchema, theirs); err != nil {
				t.Errorf("our schema: %v", err)
			}
		}
	}
}
