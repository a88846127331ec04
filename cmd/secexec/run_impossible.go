package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secexec/secexec/hostagent/fault"
)

// impossible is what people who know other hypervisors ask of run and Secure
// Execution does not have. That no option exists says nothing: these are
// understood, hidden and refused with the reason. hostagent's API has no field for
// any of them.
var impossible = []struct {
	flags []string
	why   string
}{
	{[]string{"hugepages", "mem-path", "mem-prealloc"}, "memory of a secure guest is in 4 KiB pages, which firmware protects one by one: huge pages can't back it"},
	{[]string{"balloon", "max-memory"}, "a memory balloon would take pages that firmware protects; a secure guest that loses one stops. Give it the memory that it needs by --memory"},
	{[]string{"device", "vfio", "hostdev"}, "a device of the host (PCI, CCW or AP) can't be passed through: it would have to reach the guest's memory. Disks and networks are virtio devices, over memory that the guest shares"},
	{[]string{"memtune", "mem-lock"}, "memory of a secure guest is neither locked nor limited beneath its size: a page that is missing stops the guest"},
	{[]string{"incoming", "restore", "loadvm", "snapshot"}, "a secure guest can't be saved, restored or migrated while it runs: the host can't read its memory. Stop it, and move it or copy its disks"},
}

// refuseImpossible adds the hidden options.
func refuseImpossible(cmd *cobra.Command) {
	for _, i := range impossible {
		for _, name := range i.flags {
			f := cmd.Flags().VarPF(impossibleFlag{name, i.why}, name, "", "")
			f.Hidden, f.NoOptDefVal = true, "yes"
		}
	}
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if slices.Contains([]string{"huge-pages", "hugetlb"}, name) {
			name = "hugepages"
		}
		return pflag.NormalizedName(name)
	})
}

// impossibleFlag refuses whatever it is set to.
type impossibleFlag struct{ name, why string }

func (f impossibleFlag) Set(string) error { return fault.New(fault.Impossible, "%s", f.why) }
func (impossibleFlag) String() string     { return "" }
func (impossibleFlag) Type() string       { return "string" }
