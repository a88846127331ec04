package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secexec/secexec/seimage"
)

// controlFlags are the flags that set an SE header's control flags, named as
// pvimg names them: --enable-X and --disable-X each, and --x-pcf and --x-scf
// for all bits at once.
type controlFlags struct {
	enable, disable map[string]*bool
	pcf, scf        string
}

// controls lists them in the order of --help. off: the bit is set to disable.
var controls = []struct {
	name string
	pcf  seimage.Flags
	scf  seimage.SecretFlags
	off  bool
	text string
}{
	{"dump", seimage.AllowDump, 0, false, "allow dumps of the guest (needs --cck or --enable-cck-update)"},
	{"cck-extension-secret", 0, seimage.CCKExtensionSecret, false, "add-secret requests must prove that they know the CCK (needs --cck)"},
	{"cck-update", 0, seimage.CCKUpdate, false, "allow updates of the CCK by the guest (z17 and later)"},
	{"pckmo", seimage.PCKMODEA | seimage.PCKMOAES | seimage.PCKMOECC, 0, false, "allow PCKMO key encryption for DEA, TDEA, AES and ECC"},
	{"pckmo-hmac", seimage.PCKMOHMAC, 0, false, "allow PCKMO key encryption for HMAC"},
	{"backup-keys", seimage.BackupKeys, 0, false, "allow opening by a host's backup key"},
	{"image-encryption", seimage.NoEncryption, 0, true, "encrypt kernel, initrd and command line"},
}

func (f *controlFlags) add(flags *pflag.FlagSet) {
	f.enable, f.disable = make(map[string]*bool), make(map[string]*bool)
	for _, c := range controls {
		on := c.off || c.pcf != 0 && c.pcf&^seimage.DefaultFlags == 0
		mark := map[bool]string{true: " (default)"}
		f.enable[c.name] = flags.Bool("enable-"+c.name, false, c.text+mark[on])
		f.disable[c.name] = flags.Bool("disable-"+c.name, false, "the opposite of --enable-"+c.name+mark[!on])
	}
	flags.StringVar(&f.pcf, "x-pcf", "", "plain-text control flags, 64 bits (excludes --enable and --disable)")
	flags.StringVar(&f.scf, "x-scf", "", "secret control flags, 64 bits (excludes --enable and --disable)")
	for _, name := range []string{"x-pcf", "x-scf"} {
		_ = flags.MarkHidden(name)
	}
}

// apply sets the control flags of a spec.
func (f *controlFlags) apply(spec *seimage.Spec) error {
	pcf, scf := seimage.DefaultFlags, seimage.SecretFlags(0)
	for _, c := range controls {
		on, off := *f.enable[c.name], *f.disable[c.name]
		switch {
		case on && off:
			return usageError{fmt.Errorf("--enable-%s and --disable-%[1]s exclude each other", c.name)}
		case (on || off) && f.pcf+f.scf != "":
			return usageError{fmt.Errorf("--x-pcf and --x-scf exclude --enable-%s and --disable-%[1]s", c.name)}
		case on != c.off && (on || off):
			pcf, scf = pcf|c.pcf, scf|c.scf
		case on || off:
			pcf, scf = pcf&^c.pcf, scf&^c.scf
		}
	}
	if f.pcf != "" {
		n, err := parseUint64("--x-pcf", f.pcf)
		if err != nil {
			return err
		}
		pcf = seimage.Flags(n)
	}
	if f.scf != "" {
		n, err := parseUint64("--x-scf", f.scf)
		if err != nil {
			return err
		}
		scf = seimage.SecretFlags(n)
	}
	spec.PCF, spec.SCF = &pcf, scf
	return nil
}

// parseUint64 reads hex digits, with or without 0x before them, as pvimg does.
func parseUint64(flag, text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
	if err != nil {
		return 0, usageError{fmt.Errorf("%s: %q is no hex number of 64 bits such as 0xe0", flag, text)}
	}
	return n, nil
}

// volume is how much a command says: pvimg's -v, -q, and -V from older days.
type volume struct{ verbose, older, quiet int }

func (v *volume) add(flags *pflag.FlagSet) {
	flags.CountVarP(&v.verbose, "verbose", "v", "say more")
	flags.CountVarP(&v.quiet, "quiet", "q", "say nothing but errors")
	flags.CountVarP(&v.older, "old-verbose", "V", "")
	_ = flags.MarkHidden("old-verbose")
}

// writers returns where results and warnings go.
func (v *volume) writers(cmd *cobra.Command) (out, warn io.Writer, err error) {
	switch {
	case v.quiet > 0 && v.verbose+v.older > 0:
		return nil, nil, usageError{fmt.Errorf("--quiet and --verbose exclude each other")}
	case v.quiet > 0:
		return io.Discard, io.Discard, nil
	}
	return cmd.OutOrStdout(), cmd.ErrOrStderr(), nil
}

// alias lets flags be given under further names.
func alias(flags *pflag.FlagSet, names map[string]string) {
	before := flags.GetNormalizeFunc()
	flags.SetNormalizeFunc(func(f *pflag.FlagSet, name string) pflag.NormalizedName {
		if to, ok := names[name]; ok {
			name = to
		}
		return before(f, name)
	})
}

// once refuses flags that are given twice, where the last one would win
// unseen, and empty values: a script's unset variable would otherwise make
// --hdr-key="$KEY" a random key. Flags that are lists or counts may repeat.
func once(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if _, list := f.Value.(pflag.SliceValue); list || f.Value.Type() == "count" {
			return
		}
		f.Value = &onceValue{Value: f.Value, name: f.Name}
	})
}

type onceValue struct {
	pflag.Value
	name string
	set  bool
}

func (v *onceValue) Set(text string) error {
	if v.set {
		return fmt.Errorf("--%s is given twice", v.name)
	}
	if text == "" && v.Type() == "string" {
		return fmt.Errorf("--%s has no value", v.name)
	}
	v.set = true
	return v.Value.Set(text)
}
