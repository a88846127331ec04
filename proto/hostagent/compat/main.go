// Command compat tells whether hostagent's API still serves the clients of the
// last release: no field, enum value or call that was released may be gone, have
// another number or be of another type. make lint runs it; a release runs
// make proto-release, which writes the API down anew.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// head stands above the facts.
const head = "# hostagent's API as of the last release, by make proto-release. Never edit it:\n# what stands here, clients rely on.\n"

func main() {
	path := flag.String("released", "proto/hostagent/v1/released.txt", "`file` with the released API")
	write := flag.Bool("write", false, "write the file: the API as it is now is released")
	flag.Parse()
	if err := run(*path, *write); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func run(path string, write bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	released, err := Parse(text)
	if err != nil {
		return err
	}
	now := current()
	if breaks := released.Breaks(now); len(breaks) > 0 {
		return fmt.Errorf("the API breaks clients of the last release: keep what was, and add beside it:\n%s", strings.Join(breaks, "\n"))
	}
	if write {
		return os.WriteFile(path, append([]byte(head), now.Marshal()...), 0o644)
	}
	return nil
}

// current is the API of all files of the package.
func current() API {
	var files []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage(hostagentv1.File_proto_hostagent_v1_hostagent_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		files = append(files, f)
		return true
	})
	return Describe(files...)
}
