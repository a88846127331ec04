package seimage

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/secexec/secexec/xts"
)

// pipeline brings components into an image:
//
//	read -> encrypt (a worker per processor) -> PLD -> write, ALD, TLD -> read
//
// SHA-512 over all pages is one chain that nothing can split, so the rest runs
// beside it and the image takes as long as that one hash does. A fixed ring of
// chunks goes round; every queue has room for all of them, so only the reader
// ever waits for a free chunk, and an error ends all by ending the reader.
type pipeline struct {
	out      io.WriterAt
	cipher   *xts.Cipher // nil: pages stay plain
	progress func(int64)
	digester *Digester

	free, encrypt, digest, write chan *chunk
}

// A chunk stays in a core's second-level cache between the stages.
const (
	chunkSize = 128 << 10
	chunks    = 16
)

type chunk struct {
	buf                  [chunkSize]byte
	pages                []byte // of buf
	addr, prefix, offset uint64
	encrypted            chan struct{}
}

func newPipeline(out io.WriterAt, cipher *xts.Cipher, progress func(int64)) *pipeline {
	p := &pipeline{out: out, cipher: cipher, progress: progress, digester: NewDigester()}
	for _, queue := range []*chan *chunk{&p.free, &p.encrypt, &p.digest, &p.write} {
		*queue = make(chan *chunk, chunks)
	}
	for range chunks {
		p.free <- &chunk{encrypted: make(chan struct{}, 1)}
	}
	return p
}

// run ends when every goroutine of its own has ended, and wipes its chunks.
func (p *pipeline) run(ctx context.Context, parts []*component) (Digests, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(p.encrypt)
		defer close(p.digest)
		if err := p.read(ctx, parts); err != nil {
			fail(err)
		}
	})
	for range min(runtime.GOMAXPROCS(0), 4) {
		wg.Go(p.encryptPages)
	}
	wg.Go(func() {
		defer close(p.write)
		for c := range p.digest {
			<-c.encrypted
			p.digester.addPages(c.pages)
			p.write <- c
		}
	})
	var done int64
	for c := range p.write {
		if ctx.Err() == nil {
			p.digester.addPlaces(uint64(len(c.pages)), c.addr, c.prefix, c.offset)
			if _, err := p.out.WriteAt(c.pages, int64(c.addr)); err != nil {
				fail(fmt.Errorf("write image: %w", err))
			}
			if done += int64(len(c.pages)); p.progress != nil {
				p.progress(done)
			}
		}
		p.free <- c
	}
	wg.Wait()
	for len(p.free) > 0 {
		clear((<-p.free).buf[:])
	}
	if err := context.Cause(ctx); err != nil {
		return Digests{}, err
	}
	return p.digester.Sum(), nil
}

// read fills chunks with the components in order and gives each component its
// address.
func (p *pipeline) read(ctx context.Context, parts []*component) error {
	addr := headerAddr() + headerSpace
	for _, part := range parts {
		part.addr = addr
		var offset int64
		for last := false; !last; {
			var c *chunk
			select {
			case c = <-p.free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if ctx.Err() != nil {
				p.free <- c
				return context.Cause(ctx)
			}
			n, ended, err := part.fill(c.buf[:], offset)
			if err != nil {
				p.free <- c
				return err
			}
			last = ended
			if n == 0 && offset > 0 { // the end of an unsized one
				p.free <- c
				continue
			}
			c.pages = c.buf[:max(roundUp(uint64(n)), PageSize)]
			clear(c.pages[n:])
			c.addr, c.prefix, c.offset = addr+uint64(offset), part.prefix, uint64(offset)
			offset += int64(n)
			p.encrypt <- c
			p.digest <- c
		}
		addr += part.padded()
	}
	return nil
}

func (p *pipeline) encryptPages() {
	for c := range p.encrypt {
		if p.cipher != nil {
			for at := 0; at < len(c.pages); at += PageSize {
				page := c.pages[at : at+PageSize]
				p.cipher.Encrypt(page, page, PageTweak(c.prefix, c.offset+uint64(at)))
			}
		}
		c.encrypted <- struct{}{}
	}
}
