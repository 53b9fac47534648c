package transport

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Security says how nodes know each other. The zero value is none; see Insecure.
//
// All other ways are mutual TLS 1.3: both sides show a certificate of the cluster's own authority that names the node. A certificate names
// node 3 of cluster 00000000000000ab if one of its subject alternative names is
//
//	the URI       beaver://00000000000000ab/3
//	the DNS name  node-3.beaver
//
// The second is for an authority that serves one cluster only, and for certificates that are made before the cluster has an id.
type Security struct {
	mode           securityMode
	secret         []byte
	authority      string // files
	certificate    string
	certificateKey string
}

type securityMode uint8

const (
	insecure securityMode = iota
	bySecret
	byFiles
)

// Insecure is no security at all: New refuses it unless the listener and both ends of every connection are loopback
// addresses, or do not leave the process.
func Insecure() Security { return Security{} }

// Secret is a secret that all nodes of a cluster share, SecretBytesMin to SecretBytesMax random bytes. Everyone who knows it can be any node. From it and the
// cluster's id each node derives the same authority, and issues itself a certificate that lives in memory only.
func Secret(secret []byte) Security { return Security{mode: bySecret, secret: slices.Clone(secret)} }

// Files are PEM files: the certificates of the cluster's authority, this node's certificate with the intermediate ones, and its
// key. They are read by New and by Reload.
func Files(authority, certificate, key string) Security {
	return Security{mode: byFiles, authority: authority, certificate: certificate, certificateKey: key}
}

// credentials are what a node shows, and whom it trusts. Nil is no security.
type credentials struct {
	certificate    tls.Certificate
	roots          *x509.CertPool
	server, client *tls.Config
}

// ErrSecurity is wrapped by what is wrong with a secret, a certificate or their absence.
var ErrSecurity = errors.New("the security of the cluster's connections")

func securityError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSecurity}, args...)...)
}

// credentials prepares them for a node. A node's own certificate is held to what its peers will ask of it, so that a wrong one is
// found at the start.
func (s Security) credentials(cluster, node uint64) (c *credentials, err error) {
	if c, err = s.own(cluster, node); c == nil {
		return nil, err
	}
	if !names(c.certificate.Leaf, cluster, node) {
		return nil, securityError("this node's own certificate does not name it: it needs the URI %s or the DNS name %s among its subject alternative names",
			nodeURI(cluster, node), nodeName(node))
	}
	c.server, c.client = c.config(true, alpn), c.config(false, alpn)
	return c, nil
}

// introduction prepares those of a node that may not know yet which cluster it is of, nor, when it is 0, which node it is. With a
// secret the authority is that of the cluster 0, which none is; with files it is the one they hold.
func (s Security) introduction(node uint64) (c *credentials, err error) {
	if c, err = s.own(0, node); c == nil {
		return nil, err
	}
	if node != 0 && s.mode == byFiles && !namesSomewhere(c.certificate.Leaf, node) {
		return nil, securityError("this node's own certificate does not name node %d: it needs the DNS name %s, or the URI beaver://CLUSTER/%d with the cluster's id, among its subject alternative names",
			node, nodeName(node), node)
	}
	c.server, c.client = c.config(true, alpnIntroduction), c.config(false, alpnIntroduction)
	return c, nil
}

// own makes or reads a node's own credentials, and sees that its authority vouches for them. Both results are nil without security.
func (s Security) own(cluster, node uint64) (c *credentials, err error) {
	switch s.mode {
	case bySecret:
		c, err = s.derive(cluster, node)
	case byFiles:
		c, err = s.load()
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := c.verify(c.certificate.Leaf, c.intermediates(), usage); err != nil {
			return nil, securityError("this node's own certificate is of no use: %w", err)
		}
	}
	return c, nil
}

func (c *credentials) intermediates() (list []*x509.Certificate) {
	for _, der := range c.certificate.Certificate[1:] {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			list = append(list, certificate)
		}
	}
	return list
}

func (s Security) load() (*credentials, error) {
	authority, err := readCredential(s.authority)
	if err != nil {
		return nil, err
	}
	c := &credentials{roots: x509.NewCertPool()}
	if !c.roots.AppendCertsFromPEM(authority) {
		return nil, securityError("%s holds no certificate in PEM form", s.authority)
	}
	certificate, err := readCredential(s.certificate)
	if err != nil {
		return nil, err
	}
	key, err := readCredential(s.certificateKey)
	if err != nil {
		return nil, err
	}
	if c.certificate, err = tls.X509KeyPair(certificate, key); err != nil {
		return nil, securityError("%s with %s: %w", s.certificate, s.certificateKey, err)
	}
	return c, nil
}

func readCredential(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, securityError("%w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(f, credentialBytesMax+1))
	if err != nil {
		return nil, securityError("%w", err)
	}
	if len(b) > credentialBytesMax {
		return nil, securityError("%s has more than %d bytes", name, credentialBytesMax)
	}
	return b, nil
}

// Certificates made from a secret are always valid: a node whose clock is off by years is still a node of the cluster. What
// protects them is that keys never leave the memory of their process, and what ends them is another secret.
var (
	validFrom  = time.Unix(0, 0).UTC()
	validUntil = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // "no date", RFC 5280 4.1.2.5
)

// derive makes the authority of the secret and the cluster's id, and lets it issue a certificate of a fresh key.
func (s Security) derive(cluster, node uint64) (*credentials, error) {
	if len(s.secret) < SecretBytesMin || len(s.secret) > SecretBytesMax {
		return nil, securityError("the secret has %d bytes; %d to %d are possible, and they must be random", len(s.secret), SecretBytesMin, SecretBytesMax)
	}
	salt := binary.LittleEndian.AppendUint64(nil, cluster)
	seed, err := hkdf.Key(sha256.New, s.secret, salt, "beaver peer authority 1", ed25519.SeedSize)
	if err != nil {
		return nil, securityError("derive the authority: %w", err)
	}
	authorityKey := ed25519.NewKeyFromSeed(seed)
	// Everything in this certificate is fixed, and so are Ed25519's signatures: it is the same on all nodes.
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprintf(authorityPrefix+"%016x", cluster)},
		NotBefore: validFrom, NotAfter: validUntil, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	authority, err = issue(authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return nil, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, securityError("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, securityError("draw a serial number: %w", err)
	}
	leaf, err := issue(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: nodeName(node)}, NotBefore: validFrom, NotAfter: validUntil,
		URIs: []*url.URL{nodeURI(cluster, node)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, authority, public, authorityKey)
	if err != nil {
		return nil, err
	}
	c := &credentials{roots: x509.NewCertPool()}
	c.roots.AddCert(authority)
	c.certificate = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return c, nil
}

func issue(certificate, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, certificate, parent, public, signer)
	if err != nil {
		return nil, securityError("issue a certificate: %w", err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, securityError("read an issued certificate: %w", err)
	}
	return issued, nil
}

func nodeURI(cluster, node uint64) *url.URL {
	return &url.URL{Scheme: "beaver", Host: fmt.Sprintf("%016x", cluster), Path: fmt.Sprintf("/%d", node)}
}

func nodeName(node uint64) string { return fmt.Sprintf("node-%d.beaver", node) }

// names reports whether a certificate names a node.
func names(certificate *x509.Certificate, cluster, node uint64) bool {
	uri := nodeURI(cluster, node).String()
	if slices.ContainsFunc(certificate.URIs, func(u *url.URL) bool { return u.String() == uri }) {
		return true
	}
	return slices.ContainsFunc(certificate.DNSNames, func(n string) bool { return strings.EqualFold(n, nodeName(node)) })
}

// namesSomewhere reports whether a certificate names a node of whatever cluster.
func namesSomewhere(certificate *x509.Certificate, node uint64) bool {
	suffix := nodeURI(0, node).Path
	if slices.ContainsFunc(certificate.URIs, func(u *url.URL) bool { return u.Scheme == "beaver" && u.Path == suffix }) {
		return true
	}
	return slices.ContainsFunc(certificate.DNSNames, func(n string) bool { return strings.EqualFold(n, nodeName(node)) })
}

// The peers' protocols, kept apart from all others that trust the same authority.
const (
	alpn             = "beaver-peer"
	alpnIntroduction = "beaver-introduction"
)

// config is TLS's for one side. The host name is not asked for: a node is known by its id, whatever its address.
func (c *credentials) config(server bool, protocol string) *tls.Config {
	usage := x509.ExtKeyUsageServerAuth
	if server {
		usage = x509.ExtKeyUsageClientAuth
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocol},
		Certificates:           []tls.Certificate{c.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection does it, without a host name
		SessionTicketsDisabled: true, // every connection shows its certificate
		// Full records from the first byte on: small ones are for browsers that wait for the first line of a page.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != protocol {
				return securityError("the other side does not speak %s", protocol)
			}
			if len(state.PeerCertificates) == 0 {
				return securityError("the other side shows no certificate")
			}
			if err := c.verify(state.PeerCertificates[0], state.PeerCertificates[1:], usage); err != nil {
				return c.distrust(state.PeerCertificates[0], err)
			}
			return nil
		},
	}
}

func (c *credentials) verify(leaf *x509.Certificate, intermediates []*x509.Certificate, usage x509.ExtKeyUsage) error {
	pool := x509.NewCertPool()
	for _, certificate := range intermediates {
		pool.AddCert(certificate)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// local reports whether an address does not leave this machine. What is not an address of the network, such as a pipe of
// a test, does not.
func local(address net.Addr) bool {
	switch a := address.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case nil:
		return false
	default:
		return !strings.HasPrefix(a.Network(), "tcp") && !strings.HasPrefix(a.Network(), "udp") && !strings.HasPrefix(a.Network(), "ip")
	}
}
