package journal

import (
	"context"
	"log/slog"
)

// Observe returns a handler that hands on all to h, and tells see of each line
// that has an event, with its attributes by key: what is logged is what is
// counted. see may not wait.
func Observe(h slog.Handler, see func(e Event, attrs map[string]string)) slog.Handler {
	return observer{h, nil, see}
}

type observer struct {
	slog.Handler
	attrs []slog.Attr
	see   func(Event, map[string]string)
}

func (o observer) Handle(ctx context.Context, r slog.Record) error {
	var event Event
	var attrs map[string]string
	r.Attrs(func(a slog.Attr) bool {
		if e, ok := a.Value.Any().(Event); ok {
			event = e
			return false
		}
		return true
	})
	if event.ID != "" {
		attrs = make(map[string]string)
		for _, a := range o.attrs {
			attrs[a.Key] = a.Value.String()
		}
		r.Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value.String()
			return true
		})
		o.see(event, attrs)
	}
	return o.Handler.Handle(ctx, r)
}

func (o observer) WithAttrs(attrs []slog.Attr) slog.Handler {
	return observer{o.Handler.WithAttrs(attrs), append(o.attrs[:len(o.attrs):len(o.attrs)], attrs...), o.see}
}

func (o observer) WithGroup(name string) slog.Handler {
	return observer{o.Handler.WithGroup(name), o.attrs, o.see}
}
