package qemu

import (
	"context"
	"time"
)

// Observer is told what monitors do. Its methods may not wait.
type Observer interface {
	Command(name string, took time.Duration, err error) // a command ended
	Dropped()                                           // an event was lost
}

type observerKey struct{}

// WithObserver returns a context whose monitors, those that are dialled with it
// or one made of it, tell the observer.
func WithObserver(ctx context.Context, o Observer) context.Context {
	return context.WithValue(ctx, observerKey{}, o)
}

// observerOf returns a context's observer, or one that does nothing.
func observerOf(ctx context.Context) Observer {
	if o, ok := ctx.Value(observerKey{}).(Observer); ok {
		return o
	}
	return nobody{}
}

type nobody struct{}

func (nobody) Command(string, time.Duration, error) {}
func (nobody) Dropped()                             {}
