package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Two small files beside what is staged. Both are written to a temporary file that is synced and then renamed. Little endian:
//
//	stage    "BVSTAGE\n" 8 bytes · version u32 · shard u16 · flags u16 (1: replace) · held u64 · as of u64 · first segment u64 ·
//	         20 zero bytes · crc32c of the rest u32
//	install  "BVINSTL\n" 8 bytes · version u32 · shard u16 · 0 u16 · index u64 · term u64 · held u64 · segments u32 ·
//	         segments × (length u8, name) · crc32c of the rest u32
const (
	stageName    = "stage"
	installName  = "install"
	tempSuffix   = ".tmp"
	stageMagic   = "BVSTAGE\n"
	installMagic = "BVINSTL\n"
	stageBytes   = 64

	installHeadBytes = 44
	installBytesMax  = 64 << 20
)

// stage says what the staged entries are: all that snapshots from asOf on refer to, above held, as far as they have come.
type stage struct {
	held    uint64 // the log held what is live up to here when the stage began
	asOf    uint64 // the newest snapshot that entries came for
	next    uint64 // number of the first segment
	replace bool   // the log lacks something: held is 0, and all that was received before is replaced
}

func (s *stage) encode(shard wal.ShardID) []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, stageBytes), stageMagic...)
	b = le.AppendUint32(b, formatVersion)
	b = le.AppendUint16(b, uint16(shard))
	flags := uint16(0)
	if s.replace {
		flags = 1
	}
	b = le.AppendUint16(b, flags)
	b = le.AppendUint64(b, s.held)
	b = le.AppendUint64(b, s.asOf)
	b = le.AppendUint64(b, s.next)
	b = append(b, make([]byte, stageBytes-4-len(b))...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeStage reads a stage file. One that is damaged or of a newer version is as good as none.
func decodeStage(b []byte, shard wal.ShardID) (stage, bool) {
	le := binary.LittleEndian
	if len(b) != stageBytes || string(b[:8]) != stageMagic || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) ||
		le.Uint32(b[8:]) != formatVersion || le.Uint16(b[12:]) != uint16(shard) || le.Uint16(b[14:]) > 1 {
		return stage{}, false
	}
	s := stage{replace: le.Uint16(b[14:]) == 1, held: le.Uint64(b[16:]), asOf: le.Uint64(b[24:]), next: le.Uint64(b[32:])}
	return s, s.held < s.asOf && s.next > 0 && !(s.replace && s.held > 0)
}

// decision is what the file "install" says.
type decision struct {
	index, term, held uint64
	segments          []string
}

func (d *decision) encode(shard wal.ShardID) []byte {
	le := binary.LittleEndian
	b := append([]byte(nil), installMagic...)
	b = le.AppendUint32(b, formatVersion)
	b = le.AppendUint16(b, uint16(shard))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, d.index)
	b = le.AppendUint64(b, d.term)
	b = le.AppendUint64(b, d.held)
	b = le.AppendUint32(b, uint32(len(d.segments)))
	for _, name := range d.segments {
		b = append(b, byte(len(name)))
		b = append(b, name...)
	}
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errDecision = errors.New("the decision to install a snapshot is damaged")

func decodeDecision(b []byte, shard wal.ShardID) (d decision, err error) {
	le := binary.LittleEndian
	end := len(b) - 4
	if end < installHeadBytes || string(b[:8]) != installMagic || le.Uint32(b[end:]) != crc32.Checksum(b[:end], castagnoli) ||
		le.Uint16(b[12:]) != uint16(shard) {
		return d, errDecision
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return d, fmt.Errorf("its format is %d, this binary knows %d: start the newer beaver that wrote it", v, formatVersion)
	}
	d = decision{index: le.Uint64(b[16:]), term: le.Uint64(b[24:]), held: le.Uint64(b[32:])}
	count := le.Uint32(b[40:])
	b = b[installHeadBytes:end]
	for range count {
		if len(b) == 0 || int(b[0]) >= len(b) {
			return d, errDecision
		}
		n := 1 + int(b[0])
		d.segments = append(d.segments, string(b[1:n]))
		b = b[n:]
	}
	if len(b) > 0 || d.index == 0 || d.held >= d.index {
		return d, errDecision
	}
	return d, nil
}

// writeFile writes a small file under its name, durably.
func writeFile(fsys vfs.FS, dir, name string, b []byte) error {
	temp := dir + "/" + name + tempSuffix
	err := fsys.Remove(temp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = fsys.Remove(temp) // gives a full disk its room back
		return fmt.Errorf("write %s: %w", temp, err)
	}
	if err := fsys.Rename(temp, dir+"/"+name); err != nil {
		return fmt.Errorf("name %s: %w: %w", name, errFinal, err)
	}
	return syncDir(fsys, dir)
}

// errFinal marks failures to make a name durable: whatever the reason, it is not known whether it is.
var errFinal = errors.New("not certain to be durable")

func syncDir(fsys vfs.FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync %s: %w: %w", dir, errFinal, err)
	}
	return nil
}

// readFile reads a small file whole; nothing when it is missing.
func readFile(fsys vfs.FS, name string, bytesMax int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	b := make([]byte, min(size, bytesMax))
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// clean removes what keep does not name from a directory, if that exists.
func clean(fsys vfs.FS, dir string, keep func(name string) bool) error {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if keep(name) {
			continue
		}
		if err := fsys.Remove(dir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was staged: %w", err)
		}
	}
	return nil
}
