package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

func uniqueJob(key string) []byte {
	return AppendJob(nil, &Spec{Queue: benchQueue, UniqueKey: key, UniqueForMillis: 10})
}

func TestUniqueSpecContradictions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field string
		spec  Spec
	}{
		{"unique_until", Spec{UniqueUntil: UniqueUntilStarted}},
		{"unique_until", Spec{UniqueKey: "k", UniqueUntil: UniqueUntilStarted + 1}},
		{"unique_for", Spec{UniqueForMillis: 1}},
		{"unique_for", Spec{UniqueKey: "k", UniqueForMillis: -1}},
	} {
		var fieldError *FieldError
		if err := c.spec.Validate(); !errors.As(err, &fieldError) || fieldError.Field != c.field || fieldError.TooLarge {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
	good := Spec{UniqueKey: "k", UniqueUntil: UniqueUntilStarted, UniqueForMillis: 1, OrderingKey: "o"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

// TestUniqueItem: an item says no more than it must, and one that says it otherwise is refused.
func TestUniqueItem(t *testing.T) {
	t.Parallel()
	const flags = jobFixedBytes + 1 + 2 // after the time, no kind and no content type
	for name, damage := range map[string]func([]byte) []byte{
		"unknown flag":  func(b []byte) []byte { b[flags] |= uniqueFlagsAll + 1; return b },
		"no key":        func(b []byte) []byte { b[flags+1] = 0; return b },
		"no window":     func(b []byte) []byte { b[flags+3] = 0; return b },
		"no hint":       func(b []byte) []byte { b[flags+4], b[flags+5] = 0, 0; return b },
		"cut short":     func(b []byte) []byte { return b[:flags+2] },
		"a longer key":  func(b []byte) []byte { b[flags+1] = 200; return b },
		"another shard": func(b []byte) []byte { return append(b[:flags+4], 0xff, 0xff, 0x7f, 9) },
	} {
		item := AppendHintedJob(nil, &Spec{Queue: benchQueue, UniqueKey: "k", UniqueForMillis: 7}, JobID{Shard: 4, Pos: 9})
		if BatchVersion(item) != batchUnique {
			t.Fatal("a batch of any version takes it")
		}
		if out := apply(benchMachine(t), damage(item)); out.Items[0].Code != CodeMalformed {
			t.Errorf("%s: code %d", name, out.Items[0].Code)
		}
	}
	for _, item := range everyItem() {
		var u uniqueItem
		if unique := decodeJob(item, &jobItem{}, &u) && len(u.text) > 0; unique != (BatchVersion(item) == batchUnique) {
			t.Errorf("item %v needs version %d", item, BatchVersion(item))
		}
	}
	if BatchVersion(nil) != batchPlain || BatchVersion([]byte{byte(itemJob), 1, 0, jobHasUnique}) != batchPlain {
		t.Error("what is no item needs another version")
	}
}

func TestUniqueHash(t *testing.T) {
	t.Parallel()
	seen := map[UniqueHash]string{}
	for _, q := range []QueueID{1, 2} {
		for _, keys := range [][2]string{{"", "ab"}, {"a", "b"}, {"ab", ""}, {"", "a"}, {"a", ""}} {
			name := fmt.Sprint(q, keys)
			h := HashUnique(q, keys[0], keys[1])
			if other, twice := seen[h]; twice || h != HashUnique(q, keys[0], keys[1]) {
				t.Errorf("%s has the hash of %s", name, other)
			}
			seen[h] = name
		}
	}
}

func TestUniqueKeysLimit(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	m.keysMax = 3
	codes := func(items ...[]byte) (codes []Code) {
		t.Helper()
		for _, r := range apply(m, items...).Items {
			codes = append(codes, r.Code)
		}
		if err := m.CheckInvariants(); err != nil {
			t.Fatal(err)
		}
		return codes
	}
	expect := func(what string, got []Code, want ...Code) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s: codes %v, want %v", what, got, want)
		}
	}
	expect("up to the limit", codes(uniqueJob("a"), uniqueJob("b")), CodeOK, CodeOK)
	both := [][]byte{AppendEnqueue(nil, SessionID{}, 0, 3, true, 0), uniqueJob("c"), uniqueJob("c"), uniqueJob("d")}
	expect("atomic over it", codes(both...), CodeAborted, CodeAborted, CodeAborted, CodeLimit)
	expect("atomic up to it", codes(AppendEnqueue(nil, SessionID{}, 0, 2, true, 0), uniqueJob("c"), uniqueJob("c")), CodeOK, CodeOK, CodeExists)
	expect("over it", codes(uniqueJob("d"), uniqueJob("a"), AppendJob(nil, &Spec{Queue: benchQueue})), CodeLimit, CodeExists, CodeOK)

	var out Results
	m.Apply(m.Applied()+1, m.Now()+100, [][]byte{AppendFetch(nil, 1, []QueueID{benchQueue}, 1, 0, 0)}, &out)
	dead := out.Leases[0].Pos
	expect("a dead job", codes(AppendFail(nil, dead, out.Leases[0].Token, &Failure{Final: true}), uniqueJob("d")), CodeOK, CodeOK)
	expect("its retry", codes(AppendRetryDead(nil, dead)), CodeLimit)
	m.keysMax++
	expect("its retry below the limit", codes(AppendRetryDead(nil, dead)), CodeOK)
	if info, _ := m.Queue(benchQueue); info.Unique != 4 || info.Deduplicated != 2 {
		t.Fatalf("%+v", info)
	}
}

// TestUniqueImageParts writes claims and holders that are longer than one section, and that an older program would not read as
// something else.
func TestUniqueImageParts(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	plain := sections(t, imageOf(t, m))
	for i := range uint64(250) {
		items := [][]byte{AppendEnqueue(nil, SessionID{byte(i), 1}, 1, 200, false, 0)}
		for k := range 100 {
			job := uniqueJob(fmt.Sprint(i, k))
			items = append(items, job, job)
		}
		apply(m, items...)
	}
	image := imageOf(t, m)
	parts := sections(t, image)
	for _, tag := range []byte{sectionClaims, sectionHolders, sectionDeduplicated} {
		if plain[tag] != 0 || parts[tag] == 0 || tag != sectionDeduplicated && parts[tag] == 1 {
			t.Errorf("section %d: %d parts, %d without unique keys", tag, parts[tag], plain[tag])
		}
	}
	restored, err := Restore(1, bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if err := restored.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(imageOf(t, restored), image) {
		t.Fatal("the restored machine writes another image")
	}
}

// sections counts the sections of an image by tag.
func sections(t *testing.T, image []byte) (parts [256]int) {
	t.Helper()
	for b := image[len(imageMagic)+1:]; len(b) > 0; {
		parts[b[0]]++
		b = b[sectionHeadBytes+binary.LittleEndian.Uint32(b[1:]):]
	}
	return parts
}
