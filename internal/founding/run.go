package founding

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// The file RUNS counts how often the node of a directory has taken part in its cluster. Little endian:
//
//	┌────────────┬─────────┬───────┬────────┐
//	│ "BEAVERRN" │ version │ count │ crc32c │
//	│ 8 bytes    │ u32     │ u64   │ u32    │
//	└────────────┴─────────┴───────┴────────┘
//
// A run asks the others before it is counted, and is counted before it takes part. So an older copy of a directory comes with a count
// that the others have heard of already, from another run, however often it is started.
const (
	// RunsFileName is the name of the file in a data directory.
	RunsFileName = "RUNS"
	runsMagic    = "BEAVERRN"
	runsVersion  = 1
	runsBytes    = 24
)

// Run is one run of a node's process, as it tells the others.
type Run struct {
	Cluster uint64        `json:"cluster"`
	Node    uint64        `json:"node"`
	Address string        `json:"address"` // where its peers reach it
	Count   uint64        `json:"count"`   // of the directory's runs, this one included
	Nonce   cluster.Nonce `json:"nonce"`   // drawn by this run
	// Begun says that the run takes part. Else it asks whether it may, and nobody remembers it.
	Begun bool `json:"begun,omitempty"`
}

// After says why a run cannot be, when another one of the same node has begun; empty when it can.
func (r *Run) After(begun *Run) string {
	if r.Count > begun.Count || r.Count == begun.Count && r.Nonce == begun.Nonce {
		return ""
	}
	return fmt.Sprintf("node %d has run since, at %s: its run %d has begun, and this data directory would begin run %d. "+
		"It is an older copy, or a copy of what another process uses, and lacks what the node has promised since. It must not be used: "+
		"if the node is gone, give its place to a new one (beaver cluster replace %d ADDRESS), which starts with --join and an empty data directory",
		r.Node, begun.Address, begun.Count, r.Count, r.Node)
}

// ReadRuns reads how many runs a directory has had; 0 when that was never counted. Errors: *FileError, those of the file system.
func ReadRuns(fsys vfs.FS, dir string) (uint64, error) {
	name := path.Join(dir, RunsFileName)
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	b, err := readAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	count, reason := decodeRuns(b)
	if reason != "" {
		return 0, &FileError{name, reason}
	}
	return count, nil
}

// WriteRuns makes durable how many runs a directory has had.
func WriteRuns(fsys vfs.FS, dir string, count uint64) error {
	return writeFile(fsys, dir, RunsFileName, encodeRuns(count))
}

func encodeRuns(count uint64) []byte {
	b := append(make([]byte, 0, runsBytes), runsMagic...)
	b = binary.LittleEndian.AppendUint32(b, runsVersion)
	b = binary.LittleEndian.AppendUint64(b, count)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// decodeRuns reads the file; reason is why it cannot be used, or empty.
func decodeRuns(b []byte) (count uint64, reason string) {
	le := binary.LittleEndian
	if len(b) >= 12 && bytes.HasPrefix(b, []byte(runsMagic)) {
		if v := le.Uint32(b[8:]); v > runsVersion {
			return 0, fmt.Sprintf("has version %d, this program reads up to %d: use a newer program", v, runsVersion)
		}
	}
	if len(b) != runsBytes || !bytes.HasPrefix(b, []byte(runsMagic)) || crc32.Checksum(b[:20], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[20:]) {
		return 0, "is damaged: restore the file from a copy that was made since the node ran last, or replace the node"
	}
	return le.Uint64(b[12:]), ""
}
