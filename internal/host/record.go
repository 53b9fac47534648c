package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"strconv"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// A record says which replica of a shard a data directory has, and what it has been. It is written before the replica speaks,
// and outlives it: an id that was once here is never used again. 48 bytes, little endian:
//
//	┌────────────┬─────────┬───────┬───────┬─────┬─────────┬──────────┬────────┐
//	│ "BEAVERRP" │ version │ shard │ state │ 0   │ replica │ 0        │ crc32c │
//	│ 8 bytes    │ u32 = 1 │ u16   │ u8    │ u8  │ u64     │ 20 bytes │ u32    │
//	└────────────┴─────────┴───────┴───────┴─────┴─────────┴──────────┴────────┘
const (
	recordDirName = "replicas"
	recordMagic   = "BEAVERRP"
	recordBytes   = 48
	recordVersion = 1
)

// RecordState says what a replica has been on this node.
type RecordState uint8

// States of a replica. They only go forward: Founding or Joining, Member, Retired.
const (
	Founding RecordState = 1 // it may make the genesis of its group; it has not spoken yet
	Joining  RecordState = 2 // it waits for its first snapshot from the group
	Member   RecordState = 3 // it has a state, and answers for it
	Retired  RecordState = 4 // it is gone, and its id is never used again
)

func (s RecordState) String() string {
	names := [...]string{"", "founding", "joining", "member", "retired"}
	if int(s) < len(names) && s > 0 {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Record is what a data directory says of its replica of one shard.
type Record struct {
	Shard   shard.ID
	Replica shard.ReplicaID
	State   RecordState
}

// ReplicaError says that a replica cannot be run in a data directory, and what to do.
type ReplicaError struct {
	Shard  shard.ID
	Reason string
}

func (e *ReplicaError) Error() string {
	return fmt.Sprintf("replica of shard %d: %s", e.Shard, e.Reason)
}

func recordName(id shard.ID) string { return fmt.Sprintf("%05d", id) }

func encodeRecord(r Record) []byte {
	b := make([]byte, recordBytes)
	copy(b, recordMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], recordVersion)
	le.PutUint16(b[12:], uint16(r.Shard))
	b[14] = byte(r.State)
	le.PutUint64(b[16:], uint64(r.Replica))
	le.PutUint32(b[44:], crc32.Checksum(b[:44], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// decodeRecord reads a record; reason is why it cannot be used, or empty.
func decodeRecord(b []byte) (r Record, reason string) {
	le := binary.LittleEndian
	if len(b) < 12 || !bytes.Equal(b[:8], []byte(recordMagic)) {
		return r, "is no record of a replica: check the data directory"
	}
	if v := le.Uint32(b[8:]); v > recordVersion {
		return r, fmt.Sprintf("has version %d, this program reads up to %d: use a newer program", v, recordVersion)
	}
	if len(b) != recordBytes || crc32.Checksum(b[:44], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[44:]) || le.Uint32(b[8:]) == 0 {
		return r, "is damaged: restore the file from a copy, or, if other nodes have the shard, replace this node by a new one with an empty data directory"
	}
	r = Record{Shard: shard.ID(le.Uint16(b[12:])), State: RecordState(b[14]), Replica: shard.ReplicaID(le.Uint64(b[16:]))}
	if r.State < Founding || r.State > Retired || r.Replica.Node() == 0 {
		return r, "is damaged: restore the file from a copy, or, if other nodes have the shard, replace this node by a new one with an empty data directory"
	}
	return r, ""
}

// ReadRecords reads which replicas a data directory has, by shard. A directory of before there were records, and a new one,
// has none. Errors: *ReplicaError for a record that cannot be used, and those of the file system.
func ReadRecords(fsys vfs.FS, dir string) ([]Record, error) {
	dir = path.Join(dir, recordDirName)
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var records []Record
	for _, name := range names { // sorted, and so are the shards
		id, err := strconv.ParseUint(name, 10, 16)
		if err != nil || recordName(shard.ID(id)) != name {
			continue // half made, or not ours
		}
		name = path.Join(dir, name)
		f, err := fsys.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		b, err := readSmall(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		r, reason := decodeRecord(b)
		if reason == "" && uint64(r.Shard) != id {
			reason = fmt.Sprintf("is the record of shard %d", r.Shard)
		}
		if reason != "" {
			return nil, &ReplicaError{shard.ID(id), name + " " + reason}
		}
		records = append(records, r)
	}
	return records, nil
}

// writeRecord makes a record durable in the place of an older one.
func (h *Host) writeRecord(r Record) error {
	dir := path.Join(h.opts.Dir, recordDirName)
	if err := h.opts.FS.MkdirAll(dir); err != nil {
		return fmt.Errorf("make directory of records: %w", err)
	}
	return writeSmall(h.opts.FS, dir, recordName(r.Shard), encodeRecord(r))
}

// writeSmall writes a small file under its name, durably: whole or not at all.
func writeSmall(fsys vfs.FS, dir, name string, b []byte) error {
	temp := path.Join(dir, name+tempSuffix)
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	if err := fsys.Rename(temp, path.Join(dir, name)); err != nil {
		return fmt.Errorf("name %s: %w", name, err)
	}
	return fsys.SyncDir(dir)
}
