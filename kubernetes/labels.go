package kubernetes

import "strings"

// Facts are what a node's labels follow from.
type Facts struct {
	Version  string
	Platform string // PlatformSE, PlatformEmulated
	Usable   bool   // guests can start there now
	// HostKeys are the hashes of the node's host keys, hex. Kernels before 6.10
	// don't tell them: then HostKeysKnown is false.
	HostKeys      []string
	HostKeysKnown bool
}

// Labels are all of our labels that a node with these facts has.
func Labels(f Facts) (map[string]string, error) {
	out := map[string]string{}
	if v := labelValue(f.Version); v != "" {
		out[LabelVersion] = v
	}
	for _, hash := range f.HostKeys {
		label, err := HostKeyLabel(hash)
		if err != nil {
			return nil, err
		}
		out[label] = True
	}
	if f.Usable {
		if _, _, err := PlatformLabel(f.Platform); err != nil {
			return nil, err
		}
		out[LabelPlatform] = f.Platform
		if f.Platform == PlatformSE {
			out[LabelSE] = True
		}
	}
	return out, nil
}

// Change is how a node's labels become what they should be: to each key its
// value, or nil to take it away; the form of a JSON merge patch. Labels that are
// not ours stay, and those of host keys too where the node does not tell its
// keys: an administrator who knows them may have set them.
func Change(have map[string]string, f Facts) (map[string]*string, error) {
	want, err := Labels(f)
	if err != nil {
		return nil, err
	}
	change := map[string]*string{}
	for key, value := range want {
		if have[key] != value {
			change[key] = &value
		}
	}
	for key := range have {
		hostKey := strings.HasPrefix(key, LabelHostKey)
		ours := hostKey || key == LabelSE || key == LabelPlatform || key == LabelVersion
		if _, ok := want[key]; ours && !ok && !(hostKey && !f.HostKeysKnown) {
			change[key] = nil
		}
	}
	return change, nil
}

// maxValue is the length of a label's value, Kubernetes' limit.
const maxValue = 63

// labelValue makes a text one that Kubernetes takes as a label's value: letters,
// digits, '.', '_' and '-', with a letter or digit at both ends.
func labelValue(text string) string {
	text = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, text)
	text = strings.TrimLeft(text, "._-")
	return strings.TrimRight(text[:min(len(text), maxValue)], "._-")
}
