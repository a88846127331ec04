package client

import (
	"context"
	"errors"
	"time"
)

// How long a client waits for hostagent to come back, and between its tries.
const (
	againPatience = 30 * time.Second
	againPause    = 50 * time.Millisecond
	againMaxPause = time.Second
)

// again makes a call that may be repeated. When hostagent ends in the middle it
// connects to the next one and repeats it, for as long as againPatience. A
// hostagent that never answered a call does not admit the caller: it is not asked
// again.
//
// It replaces the connection, so no other goroutine may use the client meanwhile.
func again[A any](ctx context.Context, c *Client, f func() (A, error)) (A, error) {
	answer, err := f()
	if errors.Is(err, ErrClosed) && c.answered {
		patient, cancel := context.WithTimeout(ctx, againPatience)
		defer cancel()
		for errors.Is(err, ErrClosed) && c.reconnect(patient) == nil {
			answer, err = f()
		}
	}
	c.answered = c.answered || !errors.Is(err, ErrClosed)
	return answer, err
}

// reconnect waits for a hostagent to listen again.
func (c *Client) reconnect(ctx context.Context) error {
	for pause := againPause; ; pause = min(2*pause, againMaxPause) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		fresh, err := c.redial(ctx)
		if err == nil {
			c.conn.Close()
			c.conn, c.api = fresh.conn, fresh.api
			return nil
		}
	}
}
