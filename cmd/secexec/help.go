package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagGroup is a heading of a command's help and the flags beneath it.
type flagGroup struct {
	title string
	names []string
}

// groupFlags shows a command's flags beneath headings, in the order given,
// where an alphabet of them would hide what belongs together. also are names
// that a flag has besides its own. A value is called as its usage quotes it,
// and otherwise a file.
func groupFlags(cmd *cobra.Command, also map[string]string, groups ...flagGroup) {
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		w := cmd.OutOrStderr()
		fmt.Fprintf(w, "Usage:\n  %s\n", cmd.UseLine())
		if cmd.HasExample() {
			fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
		}
		cmd.InitDefaultHelpFlag()
		shown := make(map[string]bool)
		for _, group := range groups {
			fmt.Fprintf(w, "\n%s:\n", group.title)
			for _, name := range group.names {
				shown[name] = true
				printFlag(w, cmd.Flags().Lookup(name), also[name])
			}
		}
		fmt.Fprint(w, "\nOther:\n")
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !shown[f.Name] && !f.Hidden {
				printFlag(w, f, also[f.Name])
			}
		})
		return nil
	})
}

func printFlag(w io.Writer, f *pflag.Flag, also string) {
	left := "    "
	if f.Shorthand != "" {
		left = "-" + f.Shorthand + ", "
	}
	left += "--" + f.Name
	if also != "" {
		left += ", --" + strings.ReplaceAll(also, " ", ", --")
	}
	value, usage := pflag.UnquoteUsage(f)
	switch kind := f.Value.Type(); {
	case kind == "bool" || kind == "count":
		value = ""
	case value == kind || value == "strings":
		value = "FILE"
	}
	if value != "" {
		left += " " + value
	}
	switch f.DefValue {
	case "", "0", "false", "[]":
	default:
		usage += " (default " + f.DefValue + ")"
	}
	fmt.Fprintf(w, "  %-36s %s\n", left, usage)
}
