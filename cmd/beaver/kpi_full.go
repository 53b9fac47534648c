package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

const fullBufferBytes = 1 << 20

// snapshotCost is what the snapshots of a node's shards cost, as measured.
type snapshotCost struct {
	bytes int64
	jobs  uint64        // in the state
	wrote time.Duration // full ones: written and synced
	read  time.Duration // read once, checked, and the state restored
}

// measureSnapshots reads the partial snapshots of a stopped node's directory. Then it writes full ones below dir, in the same kind of
// files with the same checksums: first the state, then each entry that it refers to. These it reads as it did the partial ones.
func measureSnapshots(dataDir, dir string) (partial, full snapshotCost, err error) {
	fsys := vfs.OS()
	log, _, err := wal.Open(wal.Options{FS: fsys, Dir: filepath.Join(dataDir, logDir)})
	if err != nil {
		return partial, full, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	shards, err := os.ReadDir(filepath.Join(dataDir, snapshotsDir))
	if err != nil {
		return partial, full, err
	}
	for _, s := range shards {
		number, err := strconv.ParseUint(s.Name(), 10, 16)
		if err != nil || number == 0 {
			continue // the catalog has no payloads
		}
		from, to := filepath.Join(dataDir, snapshotsDir, s.Name()), filepath.Join(dir, s.Name())
		if err := partial.add(fsys, uint16(number), from); err != nil {
			return partial, full, fmt.Errorf("read the partial snapshot of shard %d: %w", number, err)
		}
		began := time.Now()
		if err := writeFull(fsys, log, wal.ShardID(number), from, to); err != nil {
			return partial, full, fmt.Errorf("write a full snapshot of shard %d: %w", number, err)
		}
		full.wrote += time.Since(began)
		if err := full.add(fsys, uint16(number), to); err != nil {
			return partial, full, fmt.Errorf("read the full snapshot of shard %d: %w", number, err)
		}
	}
	return partial, full, nil
}

// writeFull writes one shard's full snapshot.
func writeFull(fsys vfs.FS, log *wal.Log, shard wal.ShardID, from, to string) (err error) {
	loaded, _, err := snapshot.Load(fsys, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loaded.Close()) }()
	machine, err := queue.Restore(uint16(shard), loaded.Content)
	if err != nil {
		return err
	}
	image := machine.Snapshot()
	_, err = snapshot.Write(fsys, to, loaded.Meta, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, fullBufferBytes)
		if _, err := image.WriteTo(out); err != nil {
			return err
		}
		var head [16]byte
		for live := image.Live().Iterator(); live.HasNext(); {
			index := live.Next()
			entry, err := log.Read(shard, index)
			if err != nil {
				return err
			}
			binary.LittleEndian.PutUint64(head[:], index)
			binary.LittleEndian.PutUint64(head[8:], uint64(len(entry.Data)))
			if _, err := out.Write(head[:]); err != nil {
				return err
			}
			if _, err := out.Write(entry.Data); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	return err
}

// add reads one shard's snapshot, of either kind.
func (c *snapshotCost) add(fsys vfs.FS, shard uint16, dir string) (err error) {
	loaded, _, err := snapshot.Load(fsys, dir) // it reads all once to check it, which is not counted
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loaded.Close()) }()
	began := time.Now()
	content := bufio.NewReaderSize(loaded.Content, fullBufferBytes)
	machine, err := queue.Restore(shard, content)
	if err != nil {
		return err
	}
	if machine.Fingerprint() != loaded.Meta.Fingerprint {
		return errors.New("the state is not what was written")
	}
	entries := make(map[uint64][]byte) // as a node keeps them that recovers from it
	var head [16]byte
	for {
		if _, err := io.ReadFull(content, head[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		data := make([]byte, binary.LittleEndian.Uint64(head[8:]))
		if _, err := io.ReadFull(content, data); err != nil {
			return err
		}
		entries[binary.LittleEndian.Uint64(head[:])] = data
	}
	c.read += time.Since(began)
	c.bytes += loaded.Bytes
	totals := machine.Totals()
	c.jobs += totals.Live()
	if want := machine.Snapshot().Live().GetCardinality(); len(entries) > 0 && uint64(len(entries)) != want {
		return fmt.Errorf("%d entries are there, and the state refers to %d", len(entries), want)
	}
	return nil
}
