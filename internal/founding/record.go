package founding

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/vfs"
)

const (
	// FileName is the name of the record in a data directory.
	FileName      = "MEMBERSHIP"
	recordMagic   = "BEAVERMB"
	recordVersion = 1
	recordHead    = 16
)

// State is how far a directory has come.
type State string

// The states. They go forward only.
const (
	Born    State = "born"    // it has its nonce
	Founded State = "founded" // it is a founder's, and all founders are known
	Joined  State = "joined"  // the cluster gave it an id
	Removed State = "removed" // the node was taken out of the cluster
)

// Founder is a node of the list that a cluster is founded with.
type Founder struct {
	Node    uint64 `json:"node"`
	Address string `json:"address"` // where its peers reach it
}

// Member is a node as a record knows it.
type Member struct {
	Node    uint64        `json:"node"`
	Address string        `json:"address"`
	Nonce   cluster.Nonce `json:"nonce"`
}

// Record is what a data directory knows of its membership.
type Record struct {
	State   State         `json:"state"`
	Nonce   cluster.Nonce `json:"nonce"`
	Cluster uint64        `json:"cluster,omitempty"`
	Node    uint64        `json:"node,omitempty"`
	Shards  int           `json:"shards,omitempty"` // data shards at the founding, or at the joining
	// Members are the founders, or whom a node that joined was told of: by them it finds the others when it starts.
	Members []Member `json:"members,omitempty"`
	// Ran says that the node's replicas have run: from then on one that is missing was lost, and must not be founded again.
	Ran bool `json:"ran,omitempty"`
	// Grown is Ran for data shards that came later: the highest one whose replica has run.
	Grown int `json:"grown,omitempty"`
}

// FileError says what is wrong with a record's file.
type FileError struct{ File, Reason string }

func (e *FileError) Error() string { return e.File + " " + e.Reason }

// Read reads the record of a data directory; nil when there is none. What it returns is durable. Errors: *FileError, those of the
// file system.
func Read(fsys vfs.FS, dir string) (*Record, error) {
	name := path.Join(dir, FileName)
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	b, err := readAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	r, reason := decode(b)
	if reason != "" {
		return nil, &FileError{name, reason}
	}
	// A process that was killed may have left a name that is seen and not durable.
	if err := fsys.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return r, nil
}

func readAll(f vfs.File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, RecordBytesMax+1))
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, err
	}
	return b, nil
}

func encode(r *Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, recordHead+len(body)+4), recordMagic...)
	b = binary.LittleEndian.AppendUint32(b, recordVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), nil
}

// decode reads a record; reason is why it cannot be used, or empty.
func decode(b []byte) (r *Record, reason string) {
	le := binary.LittleEndian
	if len(b) < recordHead+4 || !bytes.HasPrefix(b, []byte(recordMagic)) {
		return nil, "is no record of a membership: check the data directory, or restore the file from a backup"
	}
	if v := le.Uint32(b[8:]); v > recordVersion {
		return nil, fmt.Sprintf("has version %d, this program reads up to %d: use a newer program", v, recordVersion)
	}
	const damaged = "is damaged: replace the node, or restore the file from a backup"
	end := len(b) - 4
	if uint64(le.Uint32(b[12:])) != uint64(end-recordHead) || crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[end:]) {
		return nil, damaged
	}
	r = &Record{}
	if err := json.Unmarshal(b[recordHead:end], r); err != nil || !r.valid() {
		return nil, damaged
	}
	return r, ""
}

// valid reports whether a record is whole.
func (r *Record) valid() bool {
	if r.Nonce == (cluster.Nonce{}) {
		return false
	}
	switch r.State {
	case Born:
		return true
	case Founded:
		m := r.member(r.Node)
		return r.Cluster != 0 && r.Shards >= 1 && m != nil && m.Nonce == r.Nonce
	case Joined, Removed:
		return r.Cluster != 0 && r.Node != 0 && r.Shards >= 1
	}
	return false
}

func (r *Record) member(node uint64) *Member {
	if i := slices.IndexFunc(r.Members, func(m Member) bool { return m.Node == node }); i >= 0 && node != 0 {
		return &r.Members[i]
	}
	return nil
}

// Write makes a record durable in the place of an older one.
func Write(fsys vfs.FS, dir string, r *Record) error {
	b, err := encode(r)
	if err != nil || len(b) > RecordBytesMax {
		return fmt.Errorf("the record of the membership has %d bytes, at most %d are possible: %w", len(b), RecordBytesMax, errors.Join(err, fs.ErrInvalid))
	}
	return writeFile(fsys, dir, FileName, b)
}

// writeFile makes a small file durable in the place of an older one.
func writeFile(fsys vfs.FS, dir, name string, b []byte) error {
	temp := path.Join(dir, name+".tmp")
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	if _, err = f.WriteAt(b, 0); err == nil {
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
