package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A node that does not know yet which cluster it is of introduces itself: one request and one answer by a connection of its own,
// which then ends. Both are drawn alike; what the body says is the owner's business.
//
//	┌───────────────────┬─────────────┬────────────┬──────┐
//	│ "BVRINTR\n" 8 B   │ version u32 │ length u32 │ body │
//	└───────────────────┴─────────────┴────────────┴──────┘
const (
	introductionMagic     = "BVRINTR\n"
	introductionHeadBytes = 16
)

// Introduced is the other side of an introduction.
type Introduced struct {
	Address string // as this node sees it
	state   *tls.ConnectionState
	secret  bool
}

// Names reports whether the other side may call itself a node: its certificate names it. Whoever knows the secret of a cluster, and
// whoever is on this machine when there is no security, may call itself any node.
func (i Introduced) Names(node uint64) bool {
	return i.state == nil || i.secret || namesSomewhere(i.state.PeerCertificates[0], node)
}

// Introduce introduces this node to whoever listens at an address, and returns the answer and who gave it. Nothing is repeated; an
// error may mean that the other side has read it. REQUIRES: Config.Introduce.
func (t *Transport) Introduce(ctx context.Context, address string, body []byte) (answer []byte, by Introduced, err error) {
	if len(body) > IntroductionBytesMax {
		return nil, by, fmt.Errorf("%w: an introduction has at most %d bytes", ErrTooLarge, IntroductionBytesMax)
	}
	ctx, cancel := context.WithTimeout(ctx, IntroductionTimeMax)
	defer cancel()
	raw, err := t.config.Dial(ctx, address)
	if err != nil {
		return nil, by, err
	}
	defer func() { _ = raw.Close() }()
	for _, c := range []context.Context{ctx, t.ctx} {
		defer context.AfterFunc(c, func() { _ = raw.Close() })()
	}
	fail := func(err error) ([]byte, Introduced, error) {
		switch {
		case t.ctx.Err() != nil:
			err = ErrClosed
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = ErrNoPeer
		case unanswered(err):
			err = errNoWelcome
		}
		return nil, by, &HandshakeError{Address: address, Dialled: true, Cause: err}
	}
	k, state, err := t.secure(ctx, raw, false, alpnIntroduction)
	if err != nil {
		return fail(err)
	}
	if err := k.raw.SetWriteDeadline(time.Now().Add(k.silence)); err != nil {
		return fail(err)
	}
	if _, err := k.conn.Write(appendIntroduction(nil, body)); err != nil {
		return fail(err)
	}
	first := make([]byte, len(introductionMagic))
	if _, err := io.ReadFull(k, first); err != nil {
		return fail(explained(err)) // with TLS 1.3 it is now that the other side refuses a certificate
	}
	switch string(first) {
	case introductionMagic:
	case magic:
		return fail(refused(k))
	default:
		return fail(ErrNoPeer)
	}
	if answer, err = readIntroduction(k); err != nil {
		return fail(err)
	}
	return answer, Introduced{address, state, t.config.Security.mode == bySecret}, nil
}

// introduced answers a node whose magic was read.
func (t *Transport) introduced(k link, state *tls.ConnectionState) error {
	body, err := readIntroduction(k)
	switch {
	case err != nil:
		return err
	case t.config.Introduce == nil:
		return ErrUnknownPurpose
	case state != nil && state.NegotiatedProtocol != alpnIntroduction:
		return ErrNoPeer
	}
	ctx, cancel := context.WithTimeout(t.ctx, IntroductionTimeMax)
	defer cancel()
	answer, err := t.config.Introduce(ctx, Introduced{addressOf(k.raw), state, t.config.Security.mode == bySecret}, body)
	if err != nil {
		return err
	}
	if len(answer) > IntroductionBytesMax {
		return fmt.Errorf("%w: the answer to an introduction has %d bytes", ErrTooLarge, len(answer))
	}
	if err := k.raw.SetWriteDeadline(time.Now().Add(k.silence)); err != nil {
		return err
	}
	_, err = k.conn.Write(appendIntroduction(nil, answer))
	return err
}

func appendIntroduction(b, body []byte) []byte {
	b = append(b, introductionMagic...)
	b = binary.LittleEndian.AppendUint32(b, protocolVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// readIntroduction reads what follows the magic.
func readIntroduction(r io.Reader) ([]byte, error) {
	head := make([]byte, introductionHeadBytes-len(introductionMagic))
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if version := binary.LittleEndian.Uint32(head); version != protocolVersion {
		return nil, ErrOtherVersion
	}
	length := binary.LittleEndian.Uint32(head[4:])
	if length > IntroductionBytesMax {
		return nil, malformed("an introduction of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return body, nil
}
