package kernel

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/secexec/secexec/compressed"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	maxControl   = 1 << 20 // bytes of a Debian package's control file
	maxMembers   = 16      // of a Debian package: it has three
)

// arHeader is a member's header in an ar archive: see ar(5). Fields are
// decimal (the mode octal), left-aligned, filled up with spaces.
type arHeader struct {
	name string // without the slash that some writers put behind it
	size int64
}

// parseAr reads a member's header.
func parseAr(b []byte) (arHeader, error) {
	if len(b) != arHeaderSize || string(b[58:]) != "`\n" {
		return arHeader{}, fmt.Errorf("%w: no ar header", ErrPackage)
	}
	size, err := strconv.ParseUint(strings.TrimRight(string(b[48:58]), " "), 10, 63)
	if err != nil {
		return arHeader{}, fmt.Errorf("%w: an ar member of size %q", ErrPackage, b[48:58])
	}
	return arHeader{name: strings.TrimSuffix(strings.TrimRight(string(b[:16]), " "), "/"), size: int64(size)}, nil
}

// readDeb unpacks a Debian package, as deb(5) describes it: an ar archive of
// debian-binary with the text "2.0", control.tar and data.tar, both mostly
// compressed.
func readDeb(ctx context.Context, r io.Reader, s *spool) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil || string(magic[:]) != arMagic {
		return fmt.Errorf("%w: no ar archive", ErrPackage)
	}
	for i := 0; i < maxMembers; i++ {
		var raw [arHeaderSize]byte
		if _, err := io.ReadFull(in, raw[:]); err == io.EOF {
			return fmt.Errorf("%w: no data.tar in it", ErrPackage)
		} else if err != nil {
			return err
		}
		h, err := parseAr(raw[:])
		if err != nil {
			return err
		}
		member := &io.LimitedReader{R: in, N: h.size}
		stem, suffix, _ := strings.Cut(h.name, ".tar")
		switch {
		case i == 0:
			version, err := compressed.ReadAtMost(member, 64)
			if h.name != "debian-binary" || err != nil || !strings.HasPrefix(string(version), "2.") {
				return fmt.Errorf("%w: not a Debian package of format 2", ErrPackage)
			}
		case stem == "control" || stem == "data":
			format, ok := compressed.BySuffix(suffix)
			if !ok {
				return fmt.Errorf("%w: %s is compressed in an unknown way", ErrPackage, h.name)
			}
			content, err := compressed.NewReader(member, format)
			if err != nil {
				return fmt.Errorf("%w: decompress %s: %w", ErrPackage, h.name, err)
			}
			defer content.Close()
			if stem == "data" {
				if err := readDebData(ctx, content, s); err != nil {
					return err
				}
				if member.N > 0 && format == compressed.None {
					_, err = io.Copy(io.Discard, member)
				}
				return err
			}
			if err := checkControl(content); err != nil {
				return err
			}
		}
		if _, err := io.Copy(io.Discard, member); err != nil {
			return err
		}
		if member.N > 0 {
			return io.ErrUnexpectedEOF
		}
		if h.size%2 == 1 {
			if _, err := in.Discard(1); err != nil {
				return noEOF(err)
			}
		}
	}
	return fmt.Errorf("%w: more than %d members", ErrPackage, maxMembers)
}

// checkControl refuses a package for other machines.
func checkControl(r io.Reader) error {
	t := tar.NewReader(r)
	for range maxEntries {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: control.tar: %w", ErrPackage, err)
		}
		if strings.TrimPrefix(h.Name, "./") != "control" {
			continue
		}
		text, err := compressed.ReadAtMost(t, maxControl)
		if err != nil {
			return fmt.Errorf("%w: control: %w", ErrPackage, err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			if strings.EqualFold(key, "Architecture") {
				return checkArch(strings.TrimSpace(value))
			}
		}
		break
	}
	return fmt.Errorf("%w: it names no architecture", ErrPackage)
}

// checkArch refuses a package for other machines. Debian calls a package for
// all "all", RPM "noarch".
func checkArch(arch string) error {
	switch arch {
	case "s390x", "all", "noarch":
		return nil
	}
	return fmt.Errorf("%w: it is for %.20s, not s390x", ErrPackage, arch)
}

func readDebData(ctx context.Context, r io.Reader, s *spool) error {
	limited := &io.LimitedReader{R: r, N: maxContent}
	t := tar.NewReader(limited)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if limited.N == 0 {
			return fmt.Errorf("%w: unpacks to more than %d GiB", ErrPackage, int64(maxContent)>>30)
		}
		if err != nil {
			return fmt.Errorf("%w: data.tar: %w", ErrPackage, err)
		}
		if err := s.count(); err != nil {
			return err
		}
		name, wanted, err := keep(h.Name)
		if err != nil {
			return err
		}
		if !wanted {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = s.add(name, h.Size, t)
		case tar.TypeLink:
			var to string
			if to, _, err = keep(h.Linkname); err == nil {
				err = s.link(name, to)
			}
		}
		if err != nil {
			return err
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
