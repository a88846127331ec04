package kernel

import (
	"bytes"
	"io"

	"github.com/secexec/secexec/compressed"
)

// A kernel built with CONFIG_IKCONFIG has its configuration in it, gzipped,
// between two marks: see kernel/configs.c. The whole kernel is compressed once
// more inside the image.
const (
	configStart = "IKCFG_ST"
	configEnd   = "IKCFG_ED"
)

// Bounds of the search. A compressed kernel unpacks to 30 to 60 MiB; most of
// what looks like a beginning is none and ends after some bytes.
const (
	maxTries    = 64
	maxUnpacked = 512 << 20 // bytes, of all tries
)

// embeddedConfig searches an image for its configuration; nil where it finds
// none. It is a best effort: kernels compressed with LZMA, LZ4 or LZO, and
// most distributions', which have none, give nil.
func embeddedConfig(image io.ReadSeeker) []byte {
	if image == nil {
		return nil
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return nil
	}
	defer image.Seek(0, io.SeekStart) // others read it from the start
	b, err := compressed.ReadAtMost(image, MaxImage)
	_, _ = image.Seek(0, io.SeekStart) // as it was found: the image is read after this
	if err != nil {
		return nil
	}
	if config := configIn(bytes.NewReader(b)); config != nil {
		return config
	}
	budget := int64(maxUnpacked)
	at, format := nextStream(b, 0)
	for tries := 0; format != compressed.None && tries < maxTries && budget > 0; tries++ {
		if config := configInStream(b[at:], format, &budget); config != nil {
			return config
		}
		at, format = nextStream(b, at+1)
	}
	return nil
}

// configInStream searches a compressed stream, and takes what it unpacks from
// the budget.
func configInStream(b []byte, format compressed.Format, budget *int64) []byte {
	r, err := compressed.NewReader(bytes.NewReader(b), format)
	if err != nil {
		return nil
	}
	defer r.Close()
	limited := &io.LimitedReader{R: r, N: *budget}
	config := configIn(limited)
	*budget = limited.N
	return config
}

// nextStream finds the next bytes from at that begin a compressed stream.
// LZMA's mark is too weak to search for.
func nextStream(b []byte, at int) (int, compressed.Format) {
	for ; at+6 <= len(b); at++ {
		switch b[at] {
		case 0x1f, 'B', 0xfd, 0x28:
		default:
			continue
		}
		if f := compressed.Detect(b[at : at+6]); f != compressed.None {
			return at, f
		}
	}
	return len(b), compressed.None
}

// configIn searches a stream for the first mark and unpacks what follows.
func configIn(r io.Reader) []byte {
	const chunk = 256 << 10
	var window []byte
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, buf)
		window = append(window, buf[:n]...)
		if at := bytes.Index(window, []byte(configStart+"\x1f\x8b")); at >= 0 {
			return unpackConfig(io.MultiReader(bytes.NewReader(window[at+len(configStart):]), r))
		}
		window = append(window[:0], window[max(0, len(window)-len(configStart)-1):]...)
		if err != nil {
			return nil
		}
	}
}

// unpackConfig unpacks a configuration up to the second mark.
func unpackConfig(r io.Reader) []byte {
	packed, err := io.ReadAll(io.LimitReader(r, maxConfig))
	if err != nil && len(packed) == 0 {
		return nil
	}
	end := bytes.Index(packed, []byte(configEnd))
	if end < 0 {
		return nil
	}
	config, err := compressed.Decode(packed[:end], compressed.Gzip, maxConfig)
	if err != nil || !isConfig(config) {
		return nil
	}
	return config
}
