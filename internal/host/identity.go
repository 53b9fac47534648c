package host

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// The identity file says whose data directory this is. It is the first file of a directory and never changes. 48
// bytes, little endian:
//
//	┌───────────────┬────────┬───────┬─────────┬────────┬──────────┬────────┐
//	│ "BEAVERND"    │ format │ 0     │ cluster │ node   │ 0        │ crc32c │
//	│ 8 bytes       │ u32    │ u32   │ u64     │ u64    │ 12 bytes │ u32    │
//	└───────────────┴────────┴───────┴─────────┴────────┴──────────┴────────┘
//
// The format is that of the directory as a whole: its files have formats of their own, and this one is raised when
// their arrangement changes.
const (
	identityName    = "IDENTITY"
	tempSuffix      = ".tmp"
	identityMagic   = "BEAVERND"
	identityBytes   = 48
	formatVersion   = 1
	lockName        = "LOCK"
	logDirName      = "log"
	snapshotDirName = "snapshots"
)

// Identity is whose data directory it is.
type Identity struct {
	Format        uint32
	Cluster, Node uint64
}

// IdentityError says that a data directory cannot be used by this node, and what to do.
type IdentityError struct {
	File   string
	Reason string
}

func (e *IdentityError) Error() string { return fmt.Sprintf("%s: %s", e.File, e.Reason) }

func encodeIdentity(id Identity) []byte {
	b := make([]byte, identityBytes)
	copy(b, identityMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], id.Format)
	le.PutUint64(b[16:], id.Cluster)
	le.PutUint64(b[24:], id.Node)
	le.PutUint32(b[44:], crc32.Checksum(b[:44], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// decodeIdentity reads an identity file; reason is why it cannot be used, or empty.
func decodeIdentity(b []byte) (id Identity, reason string) {
	le := binary.LittleEndian
	if len(b) < 12 || !bytes.Equal(b[:8], []byte(identityMagic)) {
		return id, "is no identity file of a node: check the data directory, or restore the file from a backup"
	}
	// The version is read before the checksum, since a newer format may have another length.
	id.Format = le.Uint32(b[8:])
	if id.Format > formatVersion {
		return id, fmt.Sprintf("the data directory has format %d, this program reads up to %d: use a newer program", id.Format, formatVersion)
	}
	if len(b) != identityBytes || crc32.Checksum(b[:44], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[44:]) || id.Format == 0 {
		return id, "is damaged: restore the file from a copy, or, if other nodes have the same shards, replace this node by a new one with an empty data directory"
	}
	id.Cluster, id.Node = le.Uint64(b[16:]), le.Uint64(b[24:])
	return id, ""
}

// ReadIdentity reads whose data directory dir is. It returns fs.ErrNotExist when it is nobody's.
func ReadIdentity(fsys vfs.FS, dir string) (Identity, error) {
	name := path.Join(dir, identityName)
	f, err := fsys.Open(name)
	if err != nil {
		return Identity{}, err
	}
	b, err := readSmall(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return Identity{}, fmt.Errorf("read %s: %w", name, err)
	}
	id, reason := decodeIdentity(b)
	if reason != "" {
		return id, &IdentityError{File: name, Reason: reason}
	}
	return id, nil
}

// readSmall reads a whole small file.
func readSmall(f vfs.File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 4096))
	_, err = f.ReadAt(b, 0)
	if err != nil && len(b) == 0 {
		err = nil
	}
	return b, err
}

// claim makes the directory this node's if it is new, and checks that it is this node's if it is not.
func claim(fsys vfs.FS, dir string, cluster, node uint64) (Identity, error) {
	id, err := ReadIdentity(fsys, dir)
	name := path.Join(dir, identityName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newIdentity(fsys, dir, cluster, node)
	case err != nil:
		return id, err
	case id.Node != node:
		return id, &IdentityError{name, fmt.Sprintf("the data belongs to node %d, this is node %d: check the data directory", id.Node, node)}
	case cluster != 0 && id.Cluster != cluster:
		return id, &IdentityError{name, fmt.Sprintf("the data belongs to cluster %016x, this node to %016x: check the data directory", id.Cluster, cluster)}
	}
	return id, nil
}

// newIdentity writes the file, durable before anything else is put into the directory. A directory that has data but
// no identity lost it; it is not new, and nothing in it may be overwritten.
func newIdentity(fsys vfs.FS, dir string, cluster, node uint64) (Identity, error) {
	name := path.Join(dir, identityName)
	names, err := fsys.List(dir)
	if err != nil {
		return Identity{}, err
	}
	if slices.ContainsFunc(names, func(name string) bool {
		return name == logDirName || name == snapshotDirName || name == recordDirName
	}) {
		return Identity{}, &IdentityError{name, "is missing, but the directory has data: restore the file from a backup"}
	}
	if cluster == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		cluster = binary.LittleEndian.Uint64(b[:]) | 1
	}
	id := Identity{Format: formatVersion, Cluster: cluster, Node: node}
	return id, writeSmall(fsys, dir, identityName, encodeIdentity(id))
}
