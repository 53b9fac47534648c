package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is an operator's own, with its files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	a.cert, a.key = a.issue(a.cert, nil)
	a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

// issue signs a certificate for a fresh key: that is the key which signs when by is nil.
func (a *authority) issue(template *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	writeFile(a.t, file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	return file
}

// flags are those of a node with a certificate that names it and that is valid until a moment.
func (a *authority) flags(node int, until time.Time) []string {
	a.t.Helper()
	name := fmt.Sprintf("node-%d.beaver", node)
	cert, key := a.issue(&x509.Certificate{
		SerialNumber: big.NewInt(int64(node) + 1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return []string{
		"--peer-ca", filepath.Join(a.dir, "ca.pem"), "--peer-cert", a.write(name+".pem", "CERTIFICATE", cert.Raw),
		"--peer-key", a.write(name+"-key.pem", "PRIVATE KEY", der),
	}
}

// TestCertificates: three nodes that know each other by certificates of the operator's authority are a cluster, and those with wrong
// ones hear what is wrong with them.
func TestCertificates(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	valid := time.Now().Add(time.Hour)
	var stations []*station
	var list []string
	for node := 1; node <= 3; node++ {
		s := newStation(t, "")
		stations, list = append(stations, s), append(list, fmt.Sprintf("%d=%s", node, s.peer))
	}
	var nodes []*running
	for i, s := range stations {
		more := append(a.flags(i+1, valid), "--node", fmt.Sprint(i+1), "--bootstrap", strings.Join(list, ","))
		nodes = append(nodes, launch(t, s.args(more...)...))
	}
	for _, n := range nodes {
		n.says("is ready")
	}
	if text, status := run(t, "enqueue", "mail", "hello", "--addr", "http://"+stations[0].public); status != exitOK {
		t.Fatalf("enqueue: %d, %s", status, text)
	}
	for _, s := range stations {
		text, status := run(t, "queues", "list", "-o", "json", "--addr", "http://"+s.public)
		if status != exitOK || !strings.Contains(text, `"mail"`) {
			t.Fatalf("queues: %d, %s", status, text)
		}
	}

	join := func(flags ...string) []string {
		return newStation(t, "").args(append([]string{"--join", stations[0].peer, "--node", "4"}, flags...)...)
	}
	text, status := run(t, join(a.flags(4, time.Now().Add(-time.Hour))...)...)
	wants(t, text, status, exitFailure, "this node's own certificate is of no use", "expired")
	text, status = run(t, join(a.flags(7, valid)...)...)
	wants(t, text, status, exitFailure, "own certificate does not name node 4", "node-4.beaver")
	text, status = run(t, join(newAuthority(t).flags(4, valid)...)...)
	wants(t, text, status, exitFailure, stations[0].peer, "not of this cluster's authority", "unknown authority")
	mixed := a.flags(4, valid)
	mixed[1] = filepath.Join(newAuthority(t).dir, "ca.pem")
	text, status = run(t, join(mixed...)...)
	wants(t, text, status, exitFailure, "this node's own certificate is of no use", "unknown authority")
	s := newStation(t, secretFile(t, "s"))
	text, status = run(t, s.args("--join", stations[0].peer)...)
	wants(t, text, status, exitFailure, stations[0].peer, "this node has a secret, and the other one certificates of an authority", "--peer-ca")

	four := launch(t, join(a.flags(4, valid)...)...)
	four.says("is ready")
	four.stop()
	for _, n := range nodes {
		n.stop()
	}
	text, status = run(t, "inspect", stations[1].dir)
	wants(t, text, status, exitOK, "node 2 of cluster ", "founded with 1 data shard by 1="+stations[0].peer+", 2="+stations[1].peer)
}
