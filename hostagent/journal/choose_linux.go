package journal

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"
)

// New returns the handler for a program's log: the journal when standard error
// goes there, as systemd says by JOURNAL_STREAM, and otherwise text.
func New(stderr *os.File, level slog.Level) slog.Handler {
	if streams(stderr, os.Getenv("JOURNAL_STREAM")) {
		if c, err := Dial(Socket); err == nil {
			return NewHandler(c, level)
		}
	}
	return slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})
}

// streams tells whether a file is the one that JOURNAL_STREAM names by device and
// inode: the variable alone is inherited by programs whose output goes elsewhere.
func streams(f *os.File, stream string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", uint64(st.Dev), st.Ino)
}
