package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/freeport"
)

// wants checks what a wrong start says, and how it ends.
func wants(t *testing.T, text string, status, wantStatus int, words ...string) {
	t.Helper()
	if status != wantStatus {
		t.Errorf("it ends with %d, want %d", status, wantStatus)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q", w)
		}
	}
	if t.Failed() { // once, and what followed
		t.Logf("it says\n%s", text)
	}
}

// TestWrongFlags: flags that cannot be meant so are refused before anything is begun. The message names the flag and its value, and
// says what would be right.
func TestWrongFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	writeFile(t, short, []byte("hunter2"))
	const three = "1=127.0.0.1:7401,2=127.0.0.1:7411,3=127.0.0.1:7421"
	for name, c := range map[string]struct {
		args  []string
		words []string
	}{
		"joins and founds":           {[]string{"--bootstrap", three, "--node", "1", "--join", "127.0.0.1:7401"}, []string{"--join", "either founds its cluster or joins one"}},
		"joins itself":               {[]string{"--join", "127.0.0.1:7499", "--peer-listen", "127.0.0.1:7499"}, []string{"--join", "127.0.0.1:7499", "this node itself", "address of a member", "another --peer-listen"}},
		"which founder":              {[]string{"--bootstrap", three}, []string{"--node is missing", "which node of the --bootstrap list"}},
		"no founder":                 {[]string{"--bootstrap", three, "--node", "4"}, []string{"--node is 4", "not in the --bootstrap list"}},
		"one id twice":               {[]string{"--bootstrap", "1=127.0.0.1:1,1=127.0.0.1:2", "--node", "1"}, []string{"--bootstrap", "node 1 is there twice"}},
		"one address twice":          {[]string{"--bootstrap", "1=127.0.0.1:1,2=127.0.0.1:1", "--node", "1"}, []string{"--bootstrap", "nodes 1 and 2 have one address"}},
		"founders without ids":       {[]string{"--bootstrap", "10.0.0.1:7401", "--node", "1"}, []string{"--bootstrap", "no node id", "write it like 1=10.0.0.1:7401"}},
		"founder that nobody dials":  {[]string{"--bootstrap", "1=127.0.0.1:7401,2=0.0.0.0:7411", "--node", "1"}, []string{"--bootstrap", "node 2", "0.0.0.0:7411", "no other node can dial"}},
		"list that is empty":         {[]string{"--bootstrap", "", "--node", "1"}, []string{"--bootstrap is empty", "leave it out"}},
		"join that is empty":         {[]string{"--join", ""}, []string{"--join is empty", "leave it out"}},
		"one port for both":          {[]string{"--listen", "127.0.0.1:7401", "--peer-listen", "127.0.0.1:7401"}, []string{"--peer-listen", "127.0.0.1:7401", "so is --listen", "a port each"}},
		"one port for both, founder": {[]string{"--listen", "127.0.0.1:7401", "--bootstrap", three, "--node", "1"}, []string{"--peer-listen", "127.0.0.1:7401", "so is --listen", "a port each"}},
		"join no address":            {[]string{"--join", "somewhere"}, []string{"--join", "host:port"}},
		"peers without a secret":     {[]string{"--peer-listen", "10.0.0.1:7401"}, []string{"--peer-listen", "--cluster-secret-file"}},
		"secret that is not there":   {[]string{"--peer-listen", "127.0.0.1:7401", "--cluster-secret-file", filepath.Join(dir, "none")}, []string{"--cluster-secret-file", "none", "cannot be read"}},
		"secret that is too short":   {[]string{"--peer-listen", "127.0.0.1:7401", "--cluster-secret-file", short}, []string{"--cluster-secret-file", "7 bytes", "openssl rand -hex 32"}},
		"secret without peers":       {[]string{"--cluster-secret-file", short}, []string{"--cluster-secret-file", "no peers", "--bootstrap, --join or --peer-listen"}},
		"half of the certificates":   {[]string{"--peer-listen", "127.0.0.1:7401", "--peer-ca", "ca.pem"}, []string{"--peer-ca", "give all three"}},
		"certificate is not there":   {[]string{"--peer-listen", "127.0.0.1:7401", "--peer-ca", "ca.pem", "--peer-cert", "c.pem", "--peer-key", "k.pem"}, []string{"--peer-ca", "cannot be read"}},
		"peers cannot dial it":       {[]string{"--peer-listen", "0.0.0.0:7401", "--cluster-secret-file", short}, []string{"--advertise-peer is missing", "cannot dial 0.0.0.0:7401"}},
		"clients cannot dial it":     {[]string{"--peer-listen", "127.0.0.1:7401", "--listen", "0.0.0.0:7400"}, []string{"--advertise is missing", "cannot dial 0.0.0.0:7400"}},
		"no port":                    {[]string{"--listen", "127.0.0.1:80x"}, []string{"--listen", "80x", "0 to 65535"}},
		"too many shards":            {[]string{"--shards", "1000"}, []string{"--shards is 1000", "1 to 256"}},
		"shards that are no number":  {[]string{"--shards", "four"}, []string{"--shards", `"four" is not a whole number`, "1 to 256"}},
		"worker TTL too short":       {[]string{"--worker-ttl", "1ms"}, []string{"--worker-ttl is 1ms", "1s to 10m0s"}},
		"worker TTL without a unit":  {[]string{"--worker-ttl", "5"}, []string{"--worker-ttl", "no unit", "30s"}},
		"node id of a node alone":    {[]string{"--node", "3"}, []string{"--node is 3", "no peers"}},
		"transfers too slow":         {[]string{"--peer-listen", "127.0.0.1:7401", "--transfer-rate", "100KiB"}, []string{"--transfer-rate is 102400 bytes a second", "1 MiB", "1 GiB"}},
		"transfers too fast":         {[]string{"--peer-listen", "127.0.0.1:7401", "--transfer-rate", "1025MiB"}, []string{"--transfer-rate is 1074790400 bytes a second", "1 MiB", "1 GiB"}},
		"transfers without a size":   {[]string{"--peer-listen", "127.0.0.1:7401", "--transfer-rate", "fast"}, []string{"--transfer-rate", `"fast" is not a size`, "16MiB"}},
		"transfers beyond counting":  {[]string{"--peer-listen", "127.0.0.1:7401", "--transfer-rate", "99999999999GiB"}, []string{"--transfer-rate", "too large", "1MiB to 1GiB"}},
		"transfers of a node alone":  {[]string{"--transfer-rate", "2MiB"}, []string{"--transfer-rate is 2097152", "no peers"}},
		"log format that is unknown": {[]string{"--log-format", "xml"}, []string{"--log-format", "xml", "text or json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"server", "--data-dir", filepath.Join(t.TempDir(), "data")}, c.args...)
			if !strings.Contains(strings.Join(args, " "), "--listen") {
				args = append(args, "--listen", "127.0.0.1:0")
			}
			text, status := run(t, args...)
			wants(t, text, status, exitUsage, c.words...)
			if _, err := os.Stat(args[2]); err == nil {
				t.Error("it has made a data directory")
			}
		})
	}
}

// TestWrongPlace: a place where a node cannot run, or must not, is named, with what to do.
func TestWrongPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, nil)
	text, status := run(t, "server", "--data-dir", file, "--listen", "127.0.0.1:0")
	wants(t, text, status, exitFailure, file, "not a directory", "give a directory that this user may write to")

	data := filepath.Join(dir, "data")
	first := launch(t, "server", "--data-dir", data, "--listen", "127.0.0.1:0", "--shards", "2", "--log-level", "error")
	first.says("is ready at http://")
	address, _, _ := strings.Cut(first.text()[strings.Index(first.text(), "http://")+len("http://"):], ",")
	text, status = run(t, "server", "--data-dir", data, "--listen", "127.0.0.1:0")
	wants(t, text, status, exitFailure, data, "in use by another process", "stop that node")
	text, status = run(t, "server", "--data-dir", filepath.Join(dir, "other"), "--listen", address)
	wants(t, text, status, exitFailure, address, "address already in use", "is another node running here?")
	first.stop()

	text, status = run(t, "server", "--data-dir", data, "--listen", "127.0.0.1:0", "--shards", "1")
	wants(t, text, status, exitFailure, "2 data shards", "--shards is 1")
	text, status = run(t, "server", "--data-dir", data, "--listen", "127.0.0.1:0", "--join", freeport.Address(t), "--peer-listen", freeport.Address(t))
	wants(t, text, status, exitFailure, "started alone", "would lose its jobs", "empty data directory")

	// As a newer version would have written it.
	name := filepath.Join(data, identityFile)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[8] = 200
	binary.LittleEndian.PutUint32(b[44:], crc32.Checksum(b[:44], crc32.MakeTable(crc32.Castagnoli)))
	writeFile(t, name, b)
	text, status = run(t, "server", "--data-dir", data, "--listen", "127.0.0.1:0")
	wants(t, text, status, exitFailure, identityFile, "format 200", "this program reads up to")
}

// TestMovedFounder: a founder that listens where its list does not have it says that nobody will find it there.
func TestMovedFounder(t *testing.T) {
	t.Parallel()
	s := newStation(t, secretFile(t, "s"))
	listed := freeport.Address(t)
	one := launch(t, s.args("--node", "1", "--bootstrap", "1="+listed)...)
	one.says("is ready")
	one.stop()
	for _, word := range []string{"look for this one where its --bootstrap list has it", listed, s.peer, "--advertise-peer"} {
		if !strings.Contains(one.text(), word) {
			t.Errorf("it does not say %q: %s", word, one.text())
		}
	}
}

// TestWrongCluster: a node that a cluster does not want, or that is not the one it says, hears why and what to do.
func TestWrongCluster(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, "s")
	founder := newStation(t, secret)
	one := launch(t, founder.args()...)
	one.says("is ready")
	join := func(s *station, more ...string) (string, int) {
		t.Helper()
		return run(t, s.args(append([]string{"--join", founder.peer}, more...)...)...)
	}

	text, status := join(newStation(t, secret), "--node", "1")
	wants(t, text, status, exitFailure, "the id 1 is taken", "give another --node, or none")
	text, status = join(newStation(t, secret), "--advertise-peer", founder.peer, "--peer-listen", freeport.Address(t))
	wants(t, text, status, exitUsage, "--join", "this node itself")

	nowhere := launch(t, newStation(t, secret).args("--join", freeport.Address(t))...)
	nowhere.says("cannot be asked for a place in its cluster")
	nowhere.says("connection refused")

	// A second node joins, loses its disk, comes back under its old address, and is removed.
	second := newStation(t, secret)
	two := launch(t, second.args("--join", founder.peer)...)
	two.says("is ready")
	two.stop()
	kept := second.dir
	second.dir = filepath.Join(t.TempDir(), "empty")
	text, status = join(second)
	wants(t, text, status, exitFailure, "node 2 has the address "+second.peer, "If it lost its disk", "beaver cluster replace 2")
	second.dir = kept
	two = launch(t, second.args("--join", founder.peer)...)
	two.says("is ready")

	// A directory of another cluster.
	stranger := newStation(t, secret)
	other := launch(t, stranger.args()...)
	other.says("is ready")
	other.stop()
	text, status = join(stranger)
	wants(t, text, status, exitFailure, founder.peer, "this is cluster", "Check the data directory")
	text, status = run(t, stranger.args("--node", "5")...)
	wants(t, text, status, exitFailure, "belongs to node 1", "--node is 5")
	text, status = run(t, "server", "--data-dir", stranger.dir, "--listen", "127.0.0.1:0")
	wants(t, text, status, exitFailure, "is a member of cluster", "--peer-listen")

	if text, status := run(t, "cluster", "remove", "2", "--addr", "http://"+founder.public); status != exitOK {
		t.Fatalf("remove: %d, %s", status, text)
	}
	if status := two.ends(); status != exitOK {
		t.Errorf("the node that was removed ends with %d", status)
	}
	text, status = join(second)
	wants(t, text, status, exitFailure, "node 2 was removed from cluster", "never used again", "empty data directory")
	one.stop()
}

// TestWrongSecurity: of nodes that are not secured alike, both sides say what is wrong and what to do, in what they log and where they are
// asked whether they are ready.
func TestWrongSecurity(t *testing.T) {
	t.Parallel()
	const here, there, flags = "the other node has a secret or certificates, and this one has neither", "this node has a secret or certificates, and the other one has neither", "--cluster-secret-file"
	secret := secretFile(t, "s")
	ready := func(s *station, words ...string) {
		t.Helper()
		text, status := run(t, "status", "--ready", "--addr", "http://"+s.public)
		wants(t, text, status, exitUnavailable, words...)
	}
	for _, c := range []struct {
		founds, joins string
		joiner, log   string
	}{
		{secret, "", here, there},
		{"", secret, there, here},
		{secret, secretFile(t, "x"), "the other node has another secret", "does not trust this one's certificate: another secret"},
	} {
		founder := newStation(t, c.founds)
		one := launch(t, founder.args()...)
		one.says("is ready")
		text, status := run(t, newStation(t, c.joins).args("--join", founder.peer)...)
		wants(t, text, status, exitFailure, founder.peer, c.joiner, flags)
		one.says(c.log)
		one.stop()
	}

	// Two founders, and then two members.
	stations := []*station{newStation(t, secret), newStation(t, "")}
	start := func(i int) *running {
		return launch(t, stations[i].args("--node", fmt.Sprint(i+1), "--bootstrap", fmt.Sprintf("1=%s,2=%s", stations[0].peer, stations[1].peer))...)
	}
	one, two := start(0), start(1)
	for i, want := range []string{there, here} {
		wait := fmt.Sprintf("waiting for node %d at %s, which founds the cluster too", 2-i, stations[1-i].peer)
		[]*running{one, two}[i].says(wait + ": handshake with " + stations[1-i].peer)
		ready(stations[i], wait, want, flags)
	}
	two.stop()
	stations[1].secret = secret
	two = start(1)
	one.says("is ready")
	two.says("is ready")
	two.stop()
	one.stop()
	stations[1].secret = ""
	one, two = start(0), start(1)
	for i, want := range []string{there, here} {
		[]*running{one, two}[i].says(`purpose=messages error="handshake with ` + stations[1-i].peer)
		ready(stations[i], "waiting for the cluster's shards to have leaders; there is no connection to node", want, flags)
	}
	two.stop()
	stations[1].secret = secret
	start(1).says("is ready")
	one.says("is ready")
}

// TestWrongIdentity: a copy of a node's directory is refused, beside the node that runs and after it has run on. The node itself goes on, and
// comes back at once after it was killed.
func TestWrongIdentity(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, "i")
	stations := []*station{newStation(t, secret), newStation(t, secret), newStation(t, secret)}
	var list []string
	for i, s := range stations {
		list = append(list, fmt.Sprintf("%d=%s", i+1, s.peer))
	}
	args := func(s *station, node int, more ...string) []string {
		return s.args(append([]string{"--node", fmt.Sprint(node), "--bootstrap", strings.Join(list, ",")}, more...)...)
	}
	nodes := make([]*running, len(stations))
	for i, s := range stations {
		nodes[i] = launch(t, args(s, i+1)...)
	}
	for _, n := range nodes {
		n.says("is ready")
	}
	second := stations[1]
	copied := func() string {
		dir := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(dir, os.DirFS(second.dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	nodes[1].stop()
	older := copied()
	nodes[1] = launch(t, args(second, 2)...)
	nodes[1].says("is ready")

	twin := *second
	twin.dir, twin.public, twin.peer = copied(), freeport.Address(t), freeport.Address(t)
	text, status := run(t, args(&twin, 2, "--advertise-peer", twin.peer)...)
	wants(t, text, status, exitFailure, "another process runs as this node", "node 2 is running already, at "+second.peer, "copy of its data directory", "empty data directory and --join")
	text, status = run(t, "enqueue", "mail", "{}", "--addr", "http://"+second.public)
	wants(t, text, status, exitOK)

	if err := nodes[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-nodes[1].ended
	nodes[1] = launch(t, args(second, 2)...)
	nodes[1].says("is ready")
	if strings.Contains(nodes[1].text(), "another process runs as this node") {
		t.Error("it waited for the process that was killed")
	}
	nodes[1].stop()

	genuine := second.dir
	second.dir = older
	for range 3 {
		text, status = run(t, args(second, 2)...)
		wants(t, text, status, exitFailure, "node 2 has run since, at "+second.peer, "older copy", "beaver cluster replace 2 ADDRESS", "--join")
	}
	second.dir = genuine
	launch(t, args(second, 2)...).says("is ready")
}
