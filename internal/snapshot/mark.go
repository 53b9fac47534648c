package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// Mark says that a shard's state was found wrong: the snapshots up to an index are of a wrong state, or may be. Their places in
// the log and their replicas are right, so that the shard can go on with its group until it is brought a snapshot of another
// node. The mark is a file beside them, written under a temporary name, synced and renamed. 48 bytes, little-endian:
//
//	"BVRWRNG\n" 8 bytes · version u32 · shard u16 · 0 u16 · up to u64 · index u64 · 0 (12 bytes) · crc32c of the rest u32
type Mark struct {
	Shard uint16
	UpTo  uint64 // the newest snapshot that is wrong, or may be
	Index uint64 // after this entry the state was found wrong
}

const (
	markName    = "wrong"
	markMagic   = "BVRWRNG\n"
	markVersion = 1
	markBytes   = 48
)

func (m Mark) encode() []byte {
	b := make([]byte, markBytes)
	copy(b, markMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], markVersion)
	le.PutUint16(b[12:], m.Shard)
	le.PutUint64(b[16:], m.UpTo)
	le.PutUint64(b[24:], m.Index)
	le.PutUint32(b[markBytes-4:], crc(b[:markBytes-4]))
	return b
}

// decodeMark reads a mark. Its length and its checksum hold in this version only.
func decodeMark(path string, b []byte) (Mark, error) {
	le := binary.LittleEndian
	switch {
	case len(b) < 12 || string(b[:8]) != markMagic:
		return Mark{}, &Damage{path, 0, "it does not begin like a mark"}
	case le.Uint32(b[8:]) > markVersion:
		return Mark{}, &VersionError{Path: path, Version: le.Uint32(b[8:]), Known: markVersion}
	case len(b) != markBytes || crc(b[:markBytes-4]) != le.Uint32(b[markBytes-4:]):
		return Mark{}, &Damage{path, 0, "wrong checksum"}
	}
	m := Mark{Shard: le.Uint16(b[12:]), UpTo: le.Uint64(b[16:]), Index: le.Uint64(b[24:])}
	if !bytes.Equal(m.encode(), b) {
		return Mark{}, &Damage{path, 0, "impossible content"}
	}
	return m, nil
}

// Condemn makes a mark durable, over an older one. When an error is not a full disk it may be a failed sync, after which the
// process must end.
func Condemn(fsys vfs.FS, dir string, m Mark) error {
	name := dir + "/" + markName
	if err := fsys.Remove(name + temporarySuffix); err != nil && !isMissing(err) {
		return fmt.Errorf("mark snapshots as wrong: %w", err)
	}
	f, err := fsys.Create(name + temporarySuffix)
	if err != nil {
		return fmt.Errorf("mark snapshots as wrong: %w", err)
	}
	if _, err = f.WriteAt(m.encode(), 0); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fsys.Rename(name+temporarySuffix, name)
	}
	if err != nil {
		_ = fsys.Remove(name + temporarySuffix) // gives a full disk its room back
		return fmt.Errorf("mark snapshots as wrong: %w", err)
	}
	return syncMark(fsys, dir)
}

// Condemned reads the mark of a directory; false when it has none. One that is damaged is an error: what it said cannot be known,
// and without it a wrong state would serve.
func Condemned(fsys vfs.FS, dir string) (m Mark, found bool, err error) {
	name := dir + "/" + markName
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read the mark of wrong snapshots: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	b := make([]byte, markBytes+1)   // one more than there should be
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return m, false, readError(name, 0, err)
	}
	m, err = decodeMark(name, b[:n])
	return m, err == nil, err
}

// Acquit removes the snapshots up to the mark's and then the mark: there is a newer one, which is right. It may be called again
// after a crash. An error may be a failed sync.
func Acquit(fsys vfs.FS, dir string, m Mark) error {
	indexes, err := listIndexes(fsys, dir)
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if index > m.UpTo {
			continue
		}
		if err := fsys.Remove(dir + "/" + fileName(index)); err != nil && !isMissing(err) {
			return fmt.Errorf("remove a wrong snapshot: %w", err)
		}
	}
	if err := syncMark(fsys, dir); err != nil {
		return err
	}
	if err := fsys.Remove(dir + "/" + markName); err != nil && !isMissing(err) {
		return fmt.Errorf("remove the mark of wrong snapshots: %w", err)
	}
	return syncMark(fsys, dir)
}

func syncMark(fsys vfs.FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
