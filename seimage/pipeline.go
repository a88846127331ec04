package seimage

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/secexec/secexec/xts"
)

// pipeline brings components into an image. SHA-512 over all pages is one chain
// that nothing can split, so one goroutine does that and workers do all the rest
// beside it: the image takes as long as the one hash does. A few chunks go round
// between them:
//
//	worker: write what the chunk holds, read the next pages into it, encrypt
//	   ▲                                                              │
//	   └───────────────────── PLD, in order ◀─────────────────────────┘
//
// Where no chunk is ready the digest does a worker's turn rather than wait: so
// the first one comes at once, and one processor is enough. Both queues have
// room for all chunks, and an error ends all by ending the reading.
type pipeline struct {
	out      io.WriterAt
	cipher   *xts.Cipher // nil: pages stay plain
	progress func(int64) // may be nil
	digester *Digester

	free, digest chan *chunk

	mu     sync.Mutex // one worker at a time reads
	parts  []*component
	addr   uint64 // of parts[0]
	offset int64  // within parts[0]
	done   int64  // bytes read
	ended  bool   // and digest closed
}

// All chunks stay in the caches from worker to digest, and start no garbage
// collection. Many or large ones cost a small image more page faults than a
// large image's digest loses time with few.
const (
	chunkSize  = 256 << 10
	firstChunk = 64 << 10 // at most so many bytes, so that the digest begins soon
	chunks     = 4
)

type chunk struct {
	buf                  []byte // chunkSize bytes, whole pages of memory
	pages                []byte // of buf
	addr, prefix, offset uint64
	encrypted            chan struct{}
}

// run ends when every goroutine of its own has ended, and wipes its chunks.
func (p *pipeline) run(ctx context.Context, parts []*component) (Digests, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p.digester, p.parts, p.addr = NewDigester(), parts, headerAddr()+headerSpace
	p.free, p.digest = make(chan *chunk, chunks), make(chan *chunk, chunks)
	ring := make([]byte, chunks*chunkSize)
	defer clear(ring)
	for buf := range slices.Chunk(ring, chunkSize) {
		p.free <- &chunk{buf: buf, encrypted: make(chan struct{}, 1)}
	}
	var wg sync.WaitGroup
	for range chunks - 1 { // they wait for disks more than for processors
		wg.Go(func() {
			for c := range p.free {
				p.refill(ctx, fail, c)
			}
		})
	}
	// A goroutine of its own has a shallow stack. On a deep one SHA-512's few
	// words may lie across the end of a page, and then it takes twice as long.
	wg.Go(func() {
		defer close(p.free)
		p.digestAll(ctx, fail)
	})
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return Digests{}, err
	}
	return p.digester.Sum(), nil
}

// digestAll digests all pages in order.
func (p *pipeline) digestAll(ctx context.Context, fail context.CancelCauseFunc) {
	for {
		var c *chunk
		more := true
		select {
		case c, more = <-p.digest:
		default:
			select {
			case c, more = <-p.digest:
			case idle := <-p.free:
				p.refill(ctx, fail, idle)
				continue
			}
		}
		if !more {
			return
		}
		<-c.encrypted
		p.digester.addPages(c.pages)
		p.free <- c
	}
}

// refill is a worker's turn with a chunk that was digested, or is still empty.
func (p *pipeline) refill(ctx context.Context, fail context.CancelCauseFunc, c *chunk) {
	if len(c.pages) > 0 && ctx.Err() == nil {
		if _, err := p.out.WriteAt(c.pages, int64(c.addr)); err != nil {
			fail(fmt.Errorf("write image: %w", err))
		}
	}
	more, err := p.next(ctx, c)
	if err != nil {
		fail(err)
	}
	if !more {
		return
	}
	if p.cipher != nil {
		for at := 0; at < len(c.pages); at += PageSize {
			page := c.pages[at : at+PageSize]
			p.cipher.Encrypt(page, page, PageTweak(c.prefix, c.offset+uint64(at)))
		}
	}
	c.encrypted <- struct{}{}
}

// next reads the next pages into the chunk and queues it for the digest, which
// then waits for their encryption. Where there are none it ends the digest.
func (p *pipeline) next(ctx context.Context, c *chunk) (more bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false, nil
	}
	if ctx.Err() == nil {
		more, err = p.read(c)
	}
	if !more {
		p.ended = true
		close(p.digest)
		return false, err
	}
	p.digester.addPlaces(uint64(len(c.pages)), c.addr, c.prefix, c.offset)
	p.digest <- c
	if p.done += int64(len(c.pages)); p.progress != nil {
		p.progress(p.done)
	}
	return true, nil
}

// read fills a chunk with the components in order and gives each component its
// address.
func (p *pipeline) read(c *chunk) (more bool, err error) {
	for !more && len(p.parts) > 0 {
		part := p.parts[0]
		part.addr = p.addr
		n, last, err := part.fill(c.buf[:min(chunkSize, firstChunk+p.done)], p.offset)
		if err != nil {
			return false, err
		}
		if more = n > 0 || p.offset == 0; more { // else the end of an unsized one
			c.pages = c.buf[:max(roundUp(uint64(n)), PageSize)]
			clear(c.pages[n:])
			c.addr, c.prefix, c.offset = p.addr+uint64(p.offset), part.prefix, uint64(p.offset)
		}
		if p.offset += int64(n); last {
			p.addr += part.padded()
			p.parts, p.offset = p.parts[1:], 0
		}
	}
	return more, nil
}
