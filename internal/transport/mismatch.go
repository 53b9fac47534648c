package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// Of two nodes only one of which has security, neither understands the other. But the first bytes tell: those of TLS, or a magic. So the
// dialled node reads the first message to its end, lest a reset overtakes its answer, and answers with a welcome without TLS and without
// ids. Its verdict proves nothing, and nothing rests on it but what the dialler says to its operator.

const (
	advice = "give all nodes of the cluster the same secret (--cluster-secret-file), or certificates of one authority (--peer-ca, --peer-cert, --peer-key)"

	recordHeadBytes = 5 // of TLS: type, version, length
	recordHandshake = 22
)

// What one side says when only one has security. Both wrap ErrSecurity, as do the reasons why certificates do not fit.
var (
	errBareHere  = securityError("the other node has a secret or certificates, and this one has neither: %s", advice)
	errBareThere = securityError("this node has a secret or certificates, and the other one has neither: %s", advice)
	errDistrusts = errors.New("the other node does not trust this one's certificate: another secret, cluster or authority; the other one's log may say which: " + advice)
)

// turnAway finds out whether the dialler has no security, and tells it. REQUIRES: this node has.
func turnAway(timed *timedConn) error {
	first, err := timed.r.Peek(len(magic))
	if err != nil {
		return nil //nolint:nilerr // TLS finds that out too
	}
	switch string(first) {
	case magic:
		_, err = timed.r.Discard(helloBytes)
	case introductionMagic:
		if _, err = timed.r.Discard(len(introductionMagic)); err == nil {
			_, err = readIntroduction(timed.r)
		}
	default:
		return nil
	}
	if err == nil {
		refuseBare(timed.Conn, timed.silence, dialledSecure)
	}
	return errBareThere
}

// turnAwayTLS is its sibling on a node without security, and is given the first bytes.
func turnAwayTLS(k link, first []byte) error {
	length := int64(binary.BigEndian.Uint16(first[3:]))
	_, err := io.CopyN(io.Discard, k, max(0, recordHeadBytes+length-int64(len(first))))
	if err == nil {
		refuseBare(k.raw, k.silence, diallerSecure)
	}
	return errBareHere
}

// looksLikeTLS reports whether a connection begins with a handshake of TLS.
func looksLikeTLS(first []byte) bool {
	return len(first) >= recordHeadBytes && first[0] == recordHandshake && first[1] == 3
}

// refuseBare says what is wrong. Who does not hear it finds that the connection was closed.
func refuseBare(raw net.Conn, silence time.Duration, v verdict) {
	if err := raw.SetWriteDeadline(time.Now().Add(silence)); err == nil {
		_, _ = raw.Write(welcome{version: protocolVersion, verdict: v}.append(nil))
	}
}

// refused reads the rest of a welcome that came instead of the answer to an introduction: it can only be a refusal.
func refused(r io.Reader) error {
	b := append(make([]byte, 0, welcomeBytes), magic...)[:welcomeBytes]
	if _, err := io.ReadFull(r, b[len(magic):]); err != nil {
		return err
	}
	w, err := decodeWelcome(b)
	switch {
	case err != nil:
		return err
	case w.version != protocolVersion:
		return ErrOtherVersion
	case w.verdict == accepted:
		return ErrNoPeer
	}
	return w.verdict.error()
}

// explained says what an error of TLS is about: an alert of the other side, or that the other side does not talk TLS.
func explained(err error) error {
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		return securityError("%w (%w)", errDistrusts, err)
	}
	if other, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		if bytes.HasPrefix([]byte(magic), other.RecordHeader[:]) {
			return errBareThere
		}
		return fmt.Errorf("%w (%w)", ErrNoPeer, err)
	}
	return err
}

// unanswered reports whether the other side ended the connection instead of an answer.
func unanswered(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// authorityPrefix begins the name of an authority that was derived from a secret; the cluster's id follows.
const authorityPrefix = "beaver cluster "

// distrust says why a certificate is not of this node's cluster, as far as what it says of itself goes.
func (c *credentials) distrust(leaf *x509.Certificate, cause error) error {
	theirs, theySecret := strings.CutPrefix(leaf.Issuer.CommonName, authorityPrefix)
	ours, weSecret := strings.CutPrefix(c.certificate.Leaf.Issuer.CommonName, authorityPrefix)
	switch {
	case weSecret && !theySecret:
		return securityError("this node has a secret, and the other one certificates of an authority: %s", advice)
	case theySecret && !weSecret:
		return securityError("this node has certificates of an authority, and the other one a secret: %s", advice)
	case weSecret && theirs == ours:
		return securityError("the other node has another secret: %s", advice)
	case weSecret:
		return securityError("the other node is of another cluster, %s, and this one of %s: check the peer's address and the data directories", theirs, ours)
	}
	return securityError("the other node's certificate is not of this cluster's authority, or cannot be used: %w", cause)
}
