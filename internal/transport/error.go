package transport

import (
	"errors"
	"fmt"
)

// The outcomes of a call besides an answer. ErrUnreachable, ErrBusy, ErrTooLarge and ErrClosed say that the handler certainly did not
// see the call; ErrUnknownOutcome says that it may have. Where a context ended, its error is wrapped too.
var (
	// ErrUnreachable: nothing was sent, since there is no connection or none in time.
	ErrUnreachable = errors.New("the node cannot be reached; nothing was sent")
	// ErrBusy: this node has too many calls waiting, or the other one works on too many.
	ErrBusy = errors.New("too many calls at once; this one was not begun")
	// ErrTooLarge: the body is over CallBytesMax.
	ErrTooLarge = errors.New("the body of the call is too large")
	// ErrClosed: the transport was closed before.
	ErrClosed = errors.New("the transport is closed")
	// ErrUnknownOutcome: the call was sent, and no answer came.
	ErrUnknownOutcome = errors.New("no answer came; the call may have been served")
)

// RemoteError is the error that the other node's handler returned.
type RemoteError struct {
	Node uint64
	Text string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("node %d: %s", e.Node, e.Text) }

// Reasons why a connection ended or was not made; they go to PeerDown and into what wraps ErrUnreachable.
var (
	errNotPeer    = errors.New("it is not a known peer")
	errRemoved    = errors.New("the peer was removed")
	errMoved      = errors.New("the peer has a new address")
	errNoIdentity = errors.New("this node does not know yet which cluster it belongs to")
	errPausing    = errors.New("the last attempt failed a moment ago")
	errNoWelcome  = errors.New("the connection was closed without an answer; is security configured alike on both sides?")
	errNoHello    = errors.New("the connection was closed before anything was said")
	errNotLocal   = errors.New("without security only loopback addresses may talk to each other: configure a secret or certificates")
)
