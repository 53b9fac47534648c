package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

var testMark = Mark{Shard: 7, UpTo: 2, Index: 41}

// At every crash point there is no mark yet, or the whole one; when it is gone for good, so are the wrong snapshots.
func TestMarkCrashes(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	for index := range uint64(2) {
		mustWrite(t, sim, index+1, 100)
	}
	condemned, right, crashes := false, false, 0
	sim.SetHook(func(op vfs.Op) error {
		for _, o := range outcomes() {
			crashes++
			after := sim.CrashClone(o)
			m, found, err := Condemned(after, testDir)
			if err != nil || found && m != testMark {
				t.Errorf("before %v, %v: mark %+v, %v", op, o, m, err)
			}
			index, damages, err := load(after, 100)
			if err != nil || len(damages) > 0 {
				t.Errorf("before %v, %v: %v %v", op, o, damages, err)
			}
			switch {
			case right && index != 3:
				t.Errorf("before %v, %v: loaded %d", op, o, index)
			case condemned && !found && index <= testMark.UpTo:
				t.Errorf("before %v, %v: snapshot %d is wrong, and nothing says so", op, o, index)
			case right && !found:
				if files, err := List(after, testDir); err != nil || len(files) != 1 {
					t.Errorf("before %v, %v: no mark, and %d snapshots: %v", op, o, len(files), err)
				}
			}
			if found && index > m.UpTo {
				if err := Acquit(after, testDir, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		return nil
	})
	if err := Condemn(sim, testDir, testMark); err != nil {
		t.Fatal(err)
	}
	condemned = true
	mustWrite(t, sim, 3, 100)
	right = true
	if err := Acquit(sim, testDir, testMark); err != nil {
		t.Fatal(err)
	}
	if _, found, err := Condemned(sim, testDir); found || err != nil {
		t.Error(found, err)
	}
	if crashes < 20 {
		t.Errorf("only %d crashes", crashes)
	}
}

// A mark that is damaged is never taken for none.
func TestDamagedMark(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, 100)
	if err := Condemn(sim, testDir, testMark); err != nil {
		t.Fatal(err)
	}
	for bit := range uint(8 * markBytes) {
		if err := sim.FlipBit(testDir+"/"+markName, int64(bit/8), bit%8); err != nil {
			t.Fatal(err)
		}
		_, found, err := Condemned(sim, testDir)
		damage, newer := new(Damage), new(VersionError)
		if found || !errors.As(err, &damage) && !errors.As(err, &newer) {
			t.Fatalf("bit %d: %v, %v", bit, found, err)
		}
		if err := sim.FlipBit(testDir+"/"+markName, int64(bit/8), bit%8); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add(testMark.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == markBytes {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[markBytes-4:], crc(b[:markBytes-4]))
		}
		if m, err := decodeMark("mark", b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x is %+v, which is %x", b, m, m.encode())
		}
	})
}
