package transport

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// encode puts messages of one shard into a batch: its descriptions, and the data that follows them.
func encode(t interface{ Fatalf(string, ...any) }, shard uint16, messages ...*raftpb.Message) (meta, data []byte) {
	for _, m := range messages {
		e, ok := seal(shard, m)
		if !ok {
			t.Fatalf("%v cannot be sent", m)
		}
		before, dataBefore := len(meta), len(data)
		meta = appendMessage(meta, e)
		for _, entry := range m.Entries {
			data = append(data, entry.Data...)
		}
		if len(meta)-before != e.meta || len(data)-dataBefore != e.data {
			t.Fatalf("a message was sealed as %d and %d bytes, and has %d and %d", e.meta, e.data, len(meta)-before, len(data)-dataBefore)
		}
	}
	return meta, data
}

func decode(meta, data []byte, count int) ([]envelope, error) {
	var d batchDecoder
	envelopes, err := d.decodeBatch(meta, count)
	if err != nil {
		return nil, err
	}
	if d.data != len(data) {
		return nil, errors.New("the data has another length")
	}
	return envelopes, d.fill(bytes.NewReader(data))
}

func TestMessageRoundTrip(t *testing.T) {
	messages := map[string]*raftpb.Message{
		"type alone":     {Type: raftpb.MsgHeartbeat.Enum()},
		"zeros are kept": {Type: raftpb.MsgHeartbeat.Enum(), To: new(uint64(0)), Commit: new(uint64(0)), Reject: new(false), Context: []byte{}},
		"heartbeat":      heartbeat(9),
		"append":         appendOf(10, []byte("data")),
		"probe":          {Type: raftpb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(3)), Index: new(uint64(4)), LogTerm: new(uint64(2))},
		"append of several": {Type: raftpb.MsgApp.Enum(), Entries: []*raftpb.Entry{
			{},
			{Data: []byte{}},
			{Term: new(uint64(1)), Index: new(uint64(2)), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte("x")},
			{Type: raftpb.EntryNormal.Enum(), Data: bytes.Repeat([]byte("y"), shareBytesMax)},
		}},
		"rejection":    {Type: raftpb.MsgAppResp.Enum(), Reject: new(true), RejectHint: new(^uint64(0)), LogTerm: new(uint64(1))},
		"vote":         {Type: raftpb.MsgVote.Enum(), Term: new(uint64(1)), Context: []byte("CampaignTransfer")},
		"vote granted": {Type: raftpb.MsgVoteResp.Enum(), Term: new(uint64(1)), Vote: new(uint64(3))},
		"read index":   {Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{Data: []byte("id")}}},
		"nudge":        {Type: raftpb.MsgProp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Entries: []*raftpb.Entry{{}}},
	}
	for name, m := range messages {
		t.Run(name, func(t *testing.T) {
			meta, data := encode(t, 65535, m)
			envelopes, err := decode(meta, data, 1)
			if err != nil {
				t.Fatal(err)
			}
			if e := envelopes[0]; e.shard != 65535 || !proto.Equal(e.message, m) {
				t.Fatalf("shard %d: %v\nwant %v", e.shard, e.message, m)
			}
		})
	}
}

func drawMessage(t *rapid.T) *raftpb.Message {
	number := func(name string) *uint64 {
		if rapid.Bool().Draw(t, "has "+name) {
			return new(rapid.Uint64().Draw(t, name))
		}
		return nil
	}
	some := func(name string, most int) []byte {
		if rapid.Bool().Draw(t, "has "+name) {
			return rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, name)
		}
		return nil
	}
	m := &raftpb.Message{
		Type: raftpb.MessageType(rapid.Int32Range(0, 23).Filter(func(i int32) bool { return travels(raftpb.MessageType(i)) }).Draw(t, "type")).Enum(),
		To:   number("to"), From: number("from"), Term: number("term"), LogTerm: number("log term"), Index: number("index"),
		Commit: number("commit"), Vote: number("vote"), RejectHint: number("reject hint"), Context: some("context", 20),
	}
	if rapid.Bool().Draw(t, "has reject") {
		m.Reject = new(rapid.Bool().Draw(t, "reject"))
	}
	for range rapid.IntRange(0, 40).Draw(t, "entries") {
		e := &raftpb.Entry{Term: number("entry term"), Index: number("entry index"), Data: some("data", 40)}
		if rapid.Bool().Draw(t, "has entry type") {
			e.Type = raftpb.EntryType(rapid.Int32Range(0, 2).Draw(t, "entry type")).Enum()
		}
		m.Entries = append(m.Entries, e)
	}
	return m
}

// TestMessageProperty: whatever the library may set comes back as protobuf would bring it back, and each byte less is noticed.
func TestMessageProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var messages []*raftpb.Message
		for range rapid.IntRange(1, 20).Draw(t, "messages") {
			messages = append(messages, drawMessage(t))
		}
		meta, data := encode(t, 3, messages...)
		envelopes, err := decode(meta, data, len(messages))
		if err != nil {
			t.Fatalf("%v", err)
		}
		for i, m := range messages {
			if !proto.Equal(m, envelopes[i].message) {
				t.Fatalf("message %d: %v\nwant %v", i, envelopes[i].message, m)
			}
		}
		short := rapid.IntRange(0, len(meta)-1).Draw(t, "short")
		if _, err := decode(meta[:short], data, len(messages)); err == nil {
			t.Fatalf("%d of %d bytes were taken for the whole", short, len(meta))
		}
	})
}

func TestMessagesThatDoNotTravel(t *testing.T) {
	for name, m := range map[string]*raftpb.Message{
		"nil":             nil,
		"no type":         {},
		"local":           {Type: raftpb.MsgBeat.Enum()},
		"for the storage": {Type: raftpb.MsgStorageAppend.Enum()},
		"snapshot":        {Type: raftpb.MsgSnap.Enum(), Snapshot: &raftpb.Snapshot{}},
		"with a snapshot": {Type: raftpb.MsgApp.Enum(), Snapshot: &raftpb.Snapshot{}},
		"with responses":  {Type: raftpb.MsgApp.Enum(), Responses: []*raftpb.Message{heartbeat(1)}},
		"unknown":         {Type: raftpb.MessageType(200).Enum()},
		"a nil entry":     {Type: raftpb.MsgApp.Enum(), Entries: []*raftpb.Entry{nil}},
		"entry type":      {Type: raftpb.MsgApp.Enum(), Entries: []*raftpb.Entry{{Type: raftpb.EntryType(256).Enum()}}},
	} {
		if _, ok := seal(1, m); ok {
			t.Errorf("%s can be sent", name)
		}
	}
}

func TestMessageLimits(t *testing.T) {
	big := make([]byte, MessageBytesMax)
	several := func(bytes int) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgApp.Enum(), Entries: []*raftpb.Entry{{Data: big[:4<<20]}, {Data: big[:bytes-4<<20]}}}
	}
	overhead := messageHeadBytes + 2*entryHeadBytes
	for _, c := range []struct {
		name string
		m    *raftpb.Message
		ok   bool
	}{
		{"largest entry", appendOf(1, big[:EntryBytesMax]), true},
		{"entry over it", appendOf(1, big[:EntryBytesMax+1]), false},
		{"largest message", several(MessageBytesMax - overhead), true},
		{"message over it", several(MessageBytesMax - overhead + 1), false},
		{"largest context", &raftpb.Message{Type: raftpb.MsgVote.Enum(), Context: big[:ContextBytesMax]}, true},
		{"context over it", &raftpb.Message{Type: raftpb.MsgVote.Enum(), Context: big[:ContextBytesMax+1]}, false},
	} {
		e, ok := seal(1, c.m)
		if ok != c.ok {
			t.Errorf("%s: ok %v, want %v", c.name, ok, c.ok)
		}
		if ok {
			if _, err := decode(appendMessage(nil, e), big[:e.data], 1); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	meta, data := encode(t, 1, &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: new(uint64(1)), Entries: []*raftpb.Entry{{Data: []byte("four")}},
	})
	head := messageHeadBytes + 8
	for _, c := range []struct {
		name string
		edit func(b []byte) ([]byte, int)
		want string
	}{
		{"type", func(b []byte) ([]byte, int) { b[2] = byte(raftpb.MsgSnap); return b, 1 }, "does not travel"},
		{"reject without presence", func(b []byte) ([]byte, int) { b[3] = 1; return b, 1 }, "flags"},
		{"presence", func(b []byte) ([]byte, int) { b[5] = 0x80; return b, 1 }, "flags"},
		{"reserved", func(b []byte) ([]byte, int) { b[7] = 1; return b, 1 }, "flags"},
		{"context", func(b []byte) ([]byte, int) { b[8] = 1; return b, 1 }, "context"},
		{"context too long", func(b []byte) ([]byte, int) { b[11] = 0xff; return b, 1 }, "context"},
		{"entries", func(b []byte) ([]byte, int) { b[15] = 0xff; return b, 1 }, "cut off"},
		{"entry too long", func(b []byte) ([]byte, int) { b[head+19] = 0xff; return b, 1 }, "entry 0 with"},
		{"entry presence", func(b []byte) ([]byte, int) { b[head+21] |= 0x10; return b, 1 }, "entry 0"},
		{"entry data without presence", func(b []byte) ([]byte, int) { b[head+21] = 0; return b, 1 }, "entry 0"},
		{"entry reserved", func(b []byte) ([]byte, int) { b[head+23] = 1; return b, 1 }, "entry 0"},
		{"too many", func(b []byte) ([]byte, int) { return b, 2 }, "cut off"},
		{"far too many", func(b []byte) ([]byte, int) { return b, 1 << 30 }, "messages in"},
		{"too few", func(b []byte) ([]byte, int) { return b, 0 }, "behind the last"},
	} {
		edited, count := c.edit(bytes.Clone(meta))
		if _, err := decode(edited, data, count); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want one about %q", c.name, err, c.want)
		}
	}
}

func FuzzBatch(f *testing.F) {
	meta, data := encode(f, 7, heartbeat(3), appendOf(4, []byte("data")))
	f.Add(meta, data, 2)
	f.Fuzz(func(t *testing.T, meta, data []byte, count int) {
		if count < 0 {
			return
		}
		var d batchDecoder
		envelopes, err := d.decodeBatch(meta, count)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if d.data > 1<<20 || d.fill(bytes.NewReader(data)) != nil {
			return
		}
		// What was understood is written the same way.
		var again, dataAgain []byte
		for i, e := range envelopes {
			sealed, ok := seal(e.shard, e.message)
			if !ok || sealed.meta != e.meta || sealed.data != e.data {
				t.Fatalf("message %d was received with %d and %d bytes, and is sent with %d and %d (%v)", i, e.meta, e.data, sealed.meta, sealed.data, ok)
			}
			again = appendMessage(again, sealed)
			for _, entry := range e.message.Entries {
				dataAgain = append(dataAgain, entry.Data...)
			}
		}
		if !bytes.Equal(normal(again), normal(meta)) || !bytes.Equal(dataAgain, data[:d.data]) {
			t.Fatalf("%x was read, and is written as %x", meta, again)
		}
	})
}

// normal clears the numbers of entries that are not present: they are written as 0, and ignored when they are read.
func normal(meta []byte) []byte {
	var d batchDecoder
	b := bytes.Clone(meta)
	for at := 0; at < len(b); {
		d.rest = b[at:]
		e, err := d.decodeMessage(1)
		if err != nil {
			return b
		}
		end := at + e.meta
		for head := end - entryHeadBytes*len(e.message.Entries); head < end; head += entryHeadBytes {
			present := b[head+21]
			if present&entryHasTerm == 0 {
				clear(b[head : head+8])
			}
			if present&entryHasIndex == 0 {
				clear(b[head+8 : head+16])
			}
			if present&entryHasType == 0 {
				b[head+20] = 0
			}
		}
		at = end
	}
	return b
}

func TestFillReadsExactly(t *testing.T) {
	meta, data := encode(t, 1, appendOf(1, []byte("one")), appendOf(2, []byte("two")))
	r := bytes.NewReader(append(data, "rest"...))
	var d batchDecoder
	if _, err := d.decodeBatch(meta, 2); err != nil {
		t.Fatal(err)
	}
	if err := d.fill(r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Fatalf("%q is left", rest)
	}
}
