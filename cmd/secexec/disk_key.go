package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
)

// Bounds of cryptsetup's.
const (
	maxKeyFile    = 8 << 20
	maxPassphrase = 512
)

// pendingFile is a file that Commit puts in place, or nothing.
type pendingFile struct{ f *outfile.File }

func (p pendingFile) Commit() error {
	if p.f == nil {
		return nil
	}
	return p.f.Commit()
}

func (p pendingFile) Abort() {
	if p.f != nil {
		p.f.Abort()
	}
}

// keyFileOrNew reads a key file, or makes one of 64 random bytes.
func keyFileOrNew(path string, key *secret.Bytes) (pendingFile, error) {
	f, err := outfile.Create(path, 0o600, false)
	if errors.Is(err, outfile.ErrExists) {
		*key, err = readKeyFile(path)
		return pendingFile{}, err
	}
	if err != nil {
		return pendingFile{}, err
	}
	*key = secret.Random(64)
	if _, err := f.Write(*key); err != nil {
		f.Abort()
		return pendingFile{}, fmt.Errorf("write key file: %w", err)
	}
	return pendingFile{f}, nil
}

// readKeyFile reads all of a key file, as cryptsetup does.
func readKeyFile(path string) (secret.Bytes, error) {
	data, err := readSmall(path, maxKeyFile)
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	return data, nil
}

// readPassphrase reads a pass phrase, up to a line feed at its end. "-" is
// standard input, or a question on a terminal, asked twice with again.
func readPassphrase(cmd *cobra.Command, path string, again bool) (secret.Bytes, error) {
	data, err := func() ([]byte, error) {
		in, ok := cmd.InOrStdin().(*os.File)
		switch {
		case path != "-":
			return readSmall(path, maxPassphrase+1)
		case ok && term.IsTerminal(int(in.Fd())):
			return askPassphrase(cmd, int(in.Fd()), again)
		}
		return io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxPassphrase+2))
	}()
	if err != nil {
		return nil, fmt.Errorf("read pass phrase: %w", err)
	}
	passphrase := secret.Bytes(bytes.TrimSuffix(data, []byte("\n")))
	if len(passphrase) == 0 || len(passphrase) > maxPassphrase {
		passphrase.Wipe()
		return nil, fmt.Errorf("read pass phrase: it has %d bytes, wants 1 to %d", len(passphrase), maxPassphrase)
	}
	return passphrase, nil
}

func askPassphrase(cmd *cobra.Command, fd int, again bool) ([]byte, error) {
	ask := func(question string) ([]byte, error) {
		fmt.Fprint(cmd.ErrOrStderr(), question)
		defer fmt.Fprintln(cmd.ErrOrStderr())
		return term.ReadPassword(fd)
	}
	first, err := ask("Pass phrase: ")
	if err != nil || !again {
		return first, err
	}
	second, err := ask("Again: ")
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		err = errors.New("the two are not the same")
	}
	if err != nil {
		clear(first)
		return nil, err
	}
	return first, nil
}
