package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// authority is one of an operator's own.
type authority struct {
	t           *testing.T
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	a.key = a.newKey()
	a.certificate = template
	a.certificate = a.sign(template, a.key)
	a.write("ca.pem", "CERTIFICATE", a.certificate.Raw)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificate
}

func (a *authority) write(name, kind string, der []byte) string {
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// files makes a certificate and a key, with what edit changes.
func (a *authority) files(name string, edit func(*x509.Certificate)) Security {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	edit(template)
	key := a.newKey()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate := a.write(name+".pem", "CERTIFICATE", a.sign(template, key).Raw)
	return Files(filepath.Join(a.dir, "ca.pem"), certificate, a.write(name+"-key.pem", "PRIVATE KEY", der))
}

func byURI(cluster, node uint64) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = []*url.URL{nodeURI(cluster, node)} }
}

func byName(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = []string{"somewhere.example", name} }
}

func TestCertificatesFromFiles(t *testing.T) {
	a := newAuthority(t)
	h1, h2 := newRecord(), newRecord()
	one, address1 := tcp(t, 1, h1, a.files("one", byURI(testCluster, 1)))
	two, address2 := tcp(t, 2, h2, a.files("two", byName("Node-2.beaver")))
	setPeer(t, one, 2, address2)
	setPeer(t, two, 1, address1)
	one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
	h1.until(func() bool { return len(h1.messages) == 1 })
	h2.until(func() bool { return len(h2.messages) == 1 })
	// Another authority's certificate is not accepted, whatever it says.
	h3 := newRecord()
	three, _ := tcp(t, 3, h3, newAuthority(t).files("three", byURI(testCluster, 3)))
	setPeer(t, two, 3, "nowhere")
	setPeer(t, three, 2, address2)
	three.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	if err := h3.failure(); !errors.Is(err, ErrSecurity) {
		t.Fatal(err)
	}
}

func TestOwnCertificateIsChecked(t *testing.T) {
	a := newAuthority(t)
	missing := filepath.Join(a.dir, "missing.pem")
	good := a.files("good", byURI(testCluster, 1))
	large := filepath.Join(a.dir, "large.pem")
	if err := os.WriteFile(large, make([]byte, credentialBytesMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		security Security
		want     string
	}{
		{"good", good, ""},
		{"good secret", Secret(bytes.Repeat([]byte("x"), SecretBytesMin)), ""},
		{"largest secret", Secret(make([]byte, SecretBytesMax)), ""},
		{"short secret", Secret(make([]byte, SecretBytesMin-1)), "31 bytes"},
		{"no secret", Secret(nil), "0 bytes"},
		{"no files", Files("", "", ""), "no such file"},
		{"empty secret", Secret([]byte{}), "0 bytes"},
		{"long secret", Secret(make([]byte, SecretBytesMax+1)), "4097 bytes"},
		{"another node", a.files("node", byURI(testCluster, 2)), "beaver://00000000000000ab/1"},
		{"another cluster", a.files("cluster", byURI(testCluster+1, 1)), "does not name it"},
		{"another name", a.files("name", byName("node-10.beaver")), "node-1.beaver"},
		{"no name", a.files("none", func(*x509.Certificate) {}), "does not name it"},
		{"expired", a.files("expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute); byURI(testCluster, 1)(c) }), "expired"},
		{"server only", a.files("server", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1]; byURI(testCluster, 1)(c) }), "key usage"},
		{"another authority", Files(filepath.Join(newAuthority(t).dir, "ca.pem"), good.certificate, good.certificateKey), "authority"},
		{"another key", Files(good.authority, good.certificate, a.files("other", byURI(testCluster, 1)).certificateKey), "private key"},
		{"no authority file", Files(missing, good.certificate, good.certificateKey), "missing.pem"},
		{"no certificate file", Files(good.authority, missing, good.certificateKey), "missing.pem"},
		{"no key file", Files(good.authority, good.certificate, missing), "missing.pem"},
		{"a key as authority", Files(good.certificateKey, good.certificate, good.certificateKey), "no certificate"},
		{"a large file", Files(large, good.certificate, good.certificateKey), "more than"},
	} {
		_, err := c.security.credentials(testCluster, 1)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrSecurity) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestSecretIsOneAuthority: nodes derive the same authority of a secret and a cluster, and no other pair gives it.
func TestSecretIsOneAuthority(t *testing.T) {
	derive := func(secret []byte, cluster, node uint64) *credentials {
		c, err := Secret(secret).credentials(cluster, node)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := derive(testSecret(), 1, 1), derive(testSecret(), 1, 2)
	if !one.roots.Equal(two.roots) || one.certificate.Leaf.Equal(two.certificate.Leaf) {
		t.Error("nodes of one cluster have different authorities, or the same certificate")
	}
	for name, other := range map[string]*credentials{"cluster": derive(testSecret(), 2, 1), "secret": derive(append(testSecret(), 'x'), 1, 1)} {
		if one.roots.Equal(other.roots) || one.verify(other.certificate.Leaf, nil, x509.ExtKeyUsageServerAuth) == nil {
			t.Errorf("another %s gives the same authority", name)
		}
	}
	// A clock that is off by decades does not keep a node out.
	leaf := one.certificate.Leaf
	for _, at := range []time.Time{time.Unix(0, 0), time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: two.roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
}

// TestUnauthenticatedGetsNowhere: a dialler that trusts anyone, and has no certificate of the cluster, does not get to say hello.
func TestUnauthenticatedGetsNowhere(t *testing.T) {
	member, err := Secret(testSecret()).credentials(testCluster, 1)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := Secret(bytes.Repeat([]byte("foreign"), 10)).credentials(testCluster, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		certificates []tls.Certificate
		protocol     string
		version      uint16
		want         string
	}{
		{"good", []tls.Certificate{member.certificate}, alpn, tls.VersionTLS13, ""},
		{"no certificate", nil, alpn, tls.VersionTLS13, "client didn't provide a certificate"},
		{"another authority's", []tls.Certificate{foreign.certificate}, alpn, tls.VersionTLS13, "the other node has another secret"},
		{"another protocol", []tls.Certificate{member.certificate}, "h2", tls.VersionTLS13, "unsupported application protocols"},
		{"no protocol", []tls.Certificate{member.certificate}, "", tls.VersionTLS13, "does not speak beaver-peer"},
		{"an old version", []tls.Certificate{member.certificate}, alpn, tls.VersionTLS12, "unsupported versions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // a pipe has no buffer: both sides may wait for their time limits
				p, h, logs := newPipes(), newRecord(), newLogs()
				two := p.node(t, 2, h, func(config *Config) { config.Security, config.Logger = Secret(testSecret()), logs.logger() })
				setPeer(t, two, 1, "node-1")
				raw, err := p.dial(t.Context(), "node-2")
				if err != nil {
					t.Fatal(err)
				}
				config := &tls.Config{InsecureSkipVerify: true, Certificates: c.certificates, MaxVersion: c.version}
				if c.protocol != "" {
					config.NextProtos = []string{c.protocol}
				}
				conn := tls.Client(raw, config)
				err = conn.HandshakeContext(t.Context())
				if err == nil {
					_, err = greet(conn, hello{protocolVersion, forMessages, testCluster, 1, 2})
				}
				if (err == nil) != (c.want == "") {
					t.Fatalf("it was told %v", err)
				}
				if c.want != "" {
					if text := logs.await("refused a connection"); !strings.Contains(text, c.want) {
						t.Error(text)
					}
				}
				_ = raw.Close()
			})
		})
	}
}
