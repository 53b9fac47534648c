package transfer

import (
	"bytes"
	"errors"
	"hash/crc32"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/wal"
)

var testHeader = header{shard: 7, transfer: 3, term: 5, index: 900, round: 2}

func testEntry(index uint64, data string) entry {
	return entry{
		Entry: wal.Entry{Index: index, Term: 4, Type: 1, Data: []byte(data)},
		crc:   crc32.Checksum([]byte(data), castagnoli),
	}
}

func encodeEntries(h header, after, through uint64, entries ...entry) []byte {
	h.kind = KindEntries
	b := appendEntriesHead(nil, &h, after)
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	setEntries(b, through, len(entries))
	return finish(b)
}

func encodeHot(h header, offset uint64, data string) []byte {
	h.kind = KindHot
	return finish(append(appendHotHead(nil, &h, offset), data...))
}

func encodeOffer(h header, o offer) []byte {
	h.kind = KindOffer
	return appendOffer(nil, &h, &o)
}

func testAck() Ack {
	return Ack{Status: StatusLater, OutOfOrder: true, Held: 10, Through: 20, Hot: 30, Text: "no room", header: testHeader}
}

var testNames = []wal.Name{
	{Index: 11, Term: 4, Known: true, Type: 1, Bytes: 3, CRC: 77}, {Index: 12}, {Index: 13, Term: 4}, {Index: 900, Known: true},
}

func encodeHave(h header, entries ...entry) []byte {
	h.kind = KindHave
	b := appendHaveHead(nil, &h)
	for i := range entries {
		b = appendEntry(b, &entries[i])
	}
	setHave(b, len(entries))
	return finish(b)
}

// samples are one good chunk of each kind.
func samples() map[string][]byte {
	ack := testAck()
	lost := entry{Entry: wal.Entry{Index: 12}, flags: flagDamaged}
	gone := entry{Entry: wal.Entry{Index: 13}, flags: flagAbsent}
	return map[string][]byte{
		"offer":    encodeOffer(testHeader, offer{snapshotTerm: 4, fingerprint: 0xfeed, hotBytes: 12345, machineVersion: 2}),
		"entries":  encodeEntries(testHeader, 10, 40, testEntry(11, "one"), lost, testEntry(13, ""), testEntry(40, strings.Repeat("x", 300))),
		"all dead": encodeEntries(testHeader, 10, 900),
		"hot":      encodeHot(testHeader, 512, "state"),
		"ack":      ack.Append(nil),
		"want":     appendWant(nil, 7, 3, testNames),
		"have":     encodeHave(header{shard: 7, transfer: 3, index: 900}, testEntry(11, "one"), lost, gone, testEntry(900, "")),
		"print":    (&Print{Speaker: 3, Index: 900, Fingerprint: 0xfeed, Known: true, Asks: true}).Append(nil, 7),
		"no print": (&Print{Speaker: 3, Index: 900}).Append(nil, 7),
		"renew":    (&Renew{Speaker: 3, Above: 900}).Append(nil, 7),
	}
}

func TestChunkRoundTrip(t *testing.T) {
	t.Parallel()
	for name, b := range samples() {
		c, err := decode(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again := encode(&c); !bytes.Equal(again, b) {
			t.Errorf("%s: encoded again it is\n%x, was\n%x", name, again, b)
		}
	}
	c, err := decode(samples()["entries"])
	if err != nil || len(c.entries) != 4 || c.entries[1].flags != flagDamaged || string(c.entries[0].Data) != "one" || c.after != 10 || c.through != 40 {
		t.Errorf("%+v, %v", c, err)
	}
	if a, err := DecodeAck(samples()["ack"]); err != nil || !reflect.DeepEqual(a.String(), testAck2().String()) {
		t.Errorf("%v, %v", a.String(), err)
	}
}

func testAck2() *Ack { a := testAck(); return &a }

// encode is the inverse of decode.
func encode(c *chunk) []byte {
	switch c.kind {
	case KindOffer:
		return encodeOffer(c.header, c.offer)
	case KindEntries:
		return encodeEntries(c.header, c.after, c.through, c.entries...)
	case KindHot:
		return encodeHot(c.header, c.offset, string(c.hot))
	case KindWant:
		return appendWant(nil, c.shard, c.transfer, c.names)
	case KindHave:
		return encodeHave(c.header, c.entries...)
	case KindPrint:
		return c.print.Append(nil, c.shard)
	case KindRenew:
		return (&Renew{PeerID(c.transfer), c.index}).Append(nil, c.shard)
	default:
		return c.ack.Append(nil)
	}
}

// Whatever one bit or a cut does to a chunk, it is refused.
func TestDamagedChunksAreRefused(t *testing.T) {
	t.Parallel()
	for name, good := range samples() {
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := decode(b); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s with bit %d flipped: %v", name, bit, err)
			}
		}
		for n := range good {
			if _, err := decode(good[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, err := decode(append(bytes.Clone(good), 0)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%s with a byte more: %v", name, err)
		}
	}
}

// Chunks whose checksum is right and whose content cannot be are refused too.
func TestImpossibleChunksAreRefused(t *testing.T) {
	t.Parallel()
	with := func(change func(h *header)) header {
		h := testHeader
		change(&h)
		return h
	}
	set := func(b []byte, at int, values ...byte) []byte {
		copy(b[at:], values)
		return finish(b)
	}
	wrongCRC := testEntry(11, "one")
	wrongCRC.crc++
	dataLost := testEntry(11, "one")
	dataLost.flags = flagDamaged
	good := func(name string) []byte { return bytes.Clone(samples()[name]) }
	for name, b := range map[string][]byte{
		"no snapshot":              encodeHot(with(func(h *header) { h.index = 0 }), 0, "x"),
		"last possible index":      encodeHot(with(func(h *header) { h.index = ^uint64(0) }), 0, "x"),
		"no transfer":              encodeHot(with(func(h *header) { h.transfer = 0 }), 0, "x"),
		"unknown kind":             set(good("hot"), 5, 9),
		"fingerprint not known":    set(good("print"), headerBytes+8, 2),
		"unknown flag of a print":  set(good("print"), headerBytes+8, 4),
		"long print":               finish(append(good("print"), 0)),
		"print of a term":          set(good("print"), 24, 1),
		"renewal with a body":      finish(append(good("renew"), 0)),
		"version 0":                set(good("hot"), 4, 0),
		"header not zero":          set(good("hot"), 44, 1),
		"empty piece":              encodeHot(testHeader, 0, ""),
		"offset beyond the limit":  encodeHot(testHeader, hotBytesMax, "x"),
		"offer of nothing":         encodeOffer(testHeader, offer{}),
		"offer beyond the limit":   encodeOffer(testHeader, offer{hotBytes: hotBytesMax + 1}),
		"short offer":              finish(good("offer")[:headerBytes+offerBytes-1]),
		"offer not zero":           set(good("offer"), headerBytes+28, 1),
		"empty interval":           encodeEntries(testHeader, 10, 10),
		"interval backwards":       encodeEntries(testHeader, 10, 9),
		"behind the snapshot":      encodeEntries(testHeader, 10, 901),
		"entry below the interval": encodeEntries(testHeader, 10, 20, testEntry(10, "x")),
		"entry behind it":          encodeEntries(testHeader, 10, 20, testEntry(21, "x")),
		"entries out of order":     encodeEntries(testHeader, 10, 20, testEntry(12, "x"), testEntry(11, "x")),
		"an entry twice":           encodeEntries(testHeader, 10, 20, testEntry(12, "x"), testEntry(12, "x")),
		"wrong entry checksum":     encodeEntries(testHeader, 10, 20, wrongCRC),
		"damaged with data":        encodeEntries(testHeader, 10, 20, dataLost),
		"more entries than told":   set(good("entries"), headerBytes+16, 3),
		"fewer entries than told":  set(good("entries"), headerBytes+16, 5),
		"countless entries":        set(good("entries"), headerBytes+16, 0xff, 0xff, 0xff, 0xff),
		"unknown entry flag":       set(good("entries"), headerBytes+entriesHeadBytes+17, 2),
		"entry not zero":           set(good("entries"), headerBytes+entriesHeadBytes+18, 1),
		"endless entry":            set(good("entries"), headerBytes+entriesHeadBytes+20, 0xff, 0xff, 0xff, 0xff),
		"unknown status":           set(good("ack"), headerBytes, 8),
		"status 0":                 set(good("ack"), headerBytes, 0),
		"unknown ack flag":         set(good("ack"), headerBytes+1, 2),
		"text longer than told":    set(good("ack"), headerBytes+2, 1),
		"short ack":                finish(good("ack")[:headerBytes+ackBytes-1]),
	} {
		if _, err := decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decode(set(good("hot"), 4, 2)); !isVersion(err) {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := DecodeAck(good("hot")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a piece of hot state as an acknowledgement: %v", err)
	}
}

func isVersion(err error) bool {
	v, ok := errors.AsType[*VersionError](err)
	return ok && v.Version == 2 && strings.Contains(v.Error(), "upgrade")
}

// The largest chunk has one entry of the largest size, and passes; one byte more does not.
func TestChunkLimits(t *testing.T) {
	t.Parallel()
	b := encodeEntries(testHeader, 10, 20, testEntry(11, strings.Repeat("x", wal.EntryBytesMax)))
	if len(b) != ChunkBytesMax {
		t.Errorf("it has %d bytes, the limit is %d", len(b), ChunkBytesMax)
	}
	if _, err := decode(b); err != nil {
		t.Error(err)
	}
	b = encodeEntries(testHeader, 10, 20, testEntry(11, strings.Repeat("x", wal.EntryBytesMax+1)))
	if _, err := decode(b); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte more: %v", err)
	}
	ack := testAck()
	ack.Text = strings.Repeat("y", TextBytesMax+1)
	if a, err := DecodeAck(ack.Append(nil)); err != nil || len(a.Text) != TextBytesMax {
		t.Errorf("a reason of %d bytes arrives with %d, %v", len(ack.Text), len(a.Text), err)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"offer":   "offer shard 7 transfer 3 term 5 snapshot 900 round 2: 12345 hot bytes",
		"entries": "entries shard 7 transfer 3 term 5 snapshot 900 round 2: (10, 40] with 4 entries",
		"hot":     "hot shard 7 transfer 3 term 5 snapshot 900 round 2: 5 bytes at 512",
		"ack":     "ack shard 7 transfer 3 term 5 snapshot 900 round 2: later, held 10, through 20, hot 30, out of order, no room",
	} {
		if got := Describe(samples()[name]); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if shard, err := ShardOf(samples()[name]); err != nil || shard != 7 {
			t.Errorf("%s is of shard %d, %v", name, shard, err)
		}
	}
	if got := Describe([]byte("x")); !strings.Contains(got, "malformed") {
		t.Error(got)
	}
	if _, err := ShardOf([]byte("x")); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// FuzzChunk feeds anything to the decoder, with a right checksum. What it takes encodes to the same bytes.
func FuzzChunk(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerBytes && len(b) <= ChunkBytesMax {
			b = finish(bytes.Clone(b))
		}
		c, err := decode(b)
		_ = Describe(b)
		if err != nil {
			return
		}
		if again := encode(&c); !bytes.Equal(again, b) {
			t.Errorf("%x encodes as %x", b, again)
		}
	})
}

// FuzzStage feeds anything to the decoders of the small files beside a stage, with a right checksum.
func FuzzStage(f *testing.F) {
	s := stage{held: 3, asOf: 9, next: 4}
	d := decision{index: 9, term: 2, held: 3, segments: []string{"r0000000004-0000000004.seg"}}
	f.Add(s.encode(1))
	f.Add(d.encode(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			b = bytes.Clone(b)
			b = append(b[:len(b)-4], crcOf(b[:len(b)-4])...)
		}
		if s, ok := decodeStage(b, 1); ok {
			again, ok := decodeStage(s.encode(1), 1)
			if !ok || again != s {
				t.Errorf("%+v is read again as %+v", s, again)
			}
		}
		if d, err := decodeDecision(b, 1); err == nil {
			again, err := decodeDecision(d.encode(1), 1)
			if err != nil || again.index != d.index || again.term != d.term || again.held != d.held || !slices.Equal(again.segments, d.segments) {
				t.Errorf("%+v is read again as %+v, %v", d, again, err)
			}
		}
	})
}

func crcOf(b []byte) []byte {
	crc := crc32.Checksum(b, castagnoli)
	return []byte{byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24)}
}

func TestStageFilesRefused(t *testing.T) {
	t.Parallel()
	s := stage{asOf: 9, next: 4, replace: true}
	d := decision{index: 9, term: 2, held: 3, segments: []string{"r0000000004-0000000004.seg", "r0000000005-0000000005.seg"}}
	stageFile, decisionFile := s.encode(1), d.encode(1)
	if got, ok := decodeStage(stageFile, 1); !ok || got != s {
		t.Errorf("%+v, want %+v", got, s)
	}
	if got, err := decodeDecision(decisionFile, 1); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v, want %+v: %v", got, d, err)
	}
	for bit := range 8 * len(stageFile) {
		b := bytes.Clone(stageFile)
		b[bit/8] ^= 1 << (bit % 8)
		if _, ok := decodeStage(b, 1); ok {
			t.Fatalf("a stage with bit %d flipped is taken", bit)
		}
	}
	for bit := range 8 * len(decisionFile) {
		b := bytes.Clone(decisionFile)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeDecision(b, 1); err == nil {
			t.Fatalf("a decision with bit %d flipped is taken", bit)
		}
	}
	if _, ok := decodeStage(stageFile, 2); ok {
		t.Error("another shard's stage is taken")
	}
	if _, err := decodeDecision(decisionFile, 2); err == nil {
		t.Error("another shard's decision is taken")
	}
}
