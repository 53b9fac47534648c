package transport

import (
	"context"
	"errors"
)

// errEarlier says that this node stood still while a connection was accepted. The peer makes another.
var errEarlier = errors.New("this node stood still since the connection was made")

// eraKey is where the context of a call says in which era its connection was accepted.
type eraKey struct{}

// EraOf is the era of Config.Era in which the connection was accepted that brought the call with this context; 0 without Config.Era.
func EraOf(ctx context.Context) uint64 {
	era, _ := ctx.Value(eraKey{}).(uint64)
	return era
}

// era is the era now.
func (t *Transport) era() uint64 {
	if t.config.Era == nil {
		return 0
	}
	return t.config.Era()
}

// CutEarlier cuts the connections for calls that were accepted in an earlier era: the handler is to refuse what comes by them, and the peers
// make others.
func (t *Transport) CutEarlier() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.era()
	for key, in := range t.inbounds {
		if key.purpose == forCalls && in.era != now {
			in.link.cut()
		}
	}
}
