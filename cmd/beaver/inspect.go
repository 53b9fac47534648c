package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// The directories of a data directory, as docs/format.md describes them.
const (
	logDir       = "log"
	snapshotsDir = "snapshots"
	identityFile = "IDENTITY"
)

// identityKind is the kind of the identity file in the listing; those of the log's files are package wal's.
const identityKind = "identity"

// inspection is what inspect found.
type inspection struct {
	DataDir  string           `json:"dataDir"`
	Identity *identitySummary `json:"identity,omitempty"` // nil if it cannot be read
	// Membership is nil for a node that is alone.
	Membership *membershipSummary `json:"membership,omitempty"`

	Files     []fileSummary     `json:"files"`
	Snapshots []snapshotSummary `json:"snapshots"`
	Entries   []wal.Record      `json:"entries,omitempty"`
	Damaged   int               `json:"damaged"`
	Newer     int               `json:"newer"` // files that a newer version of the program wrote
}

type identitySummary struct {
	ClusterID string `json:"clusterId"`
	NodeID    uint64 `json:"nodeId"`
	Format    uint32 `json:"format"`
}

type fileSummary struct {
	File    string `json:"file"`
	Kind    string `json:"kind"`
	Bytes   int64  `json:"bytes"`
	Shard   int    `json:"shard,omitempty"`
	First   uint64 `json:"first,omitempty"`
	Last    uint64 `json:"last,omitempty"`
	Entries int    `json:"entries"`
	Damage  string `json:"damage,omitempty"`
}

type snapshotSummary struct {
	Shard       int       `json:"shard"`
	File        string    `json:"file"`
	Index       uint64    `json:"index"`
	Term        uint64    `json:"term"`
	Bytes       int64     `json:"bytes"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	TakenAt     time.Time `json:"takenAt,omitzero"`
	Damage      string    `json:"damage,omitempty"`
}

func newInspectCommand(a *app) *cobra.Command {
	var entries bool
	cmd := &cobra.Command{
		Use:   "inspect DATA_DIR",
		Short: "Check a data directory and show what is in it",
		Long: `Read a data directory and show whose it is, the files of its log, and its snapshots. Every checksum is checked; nothing is changed. A node
should not be running on the directory: what it is writing would look damaged. The exit status is 1 if anything is damaged, or was
written by a newer version of the program.`,
		Example: "  beaver inspect ./beaver-data\n  beaver inspect ./beaver-data --entries",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := inspect(args[0], entries)
			if err != nil {
				return err
			}
			if err := a.printInspection(found); err != nil {
				return err
			}
			return found.verdict()
		},
	}
	cmd.Flags().BoolVar(&entries, "entries", false, "show every entry of the log")
	a.outputFlag(cmd)
	return cmd
}

// verdict is the closing line, if not all is well.
func (f *inspection) verdict() error {
	switch {
	case f.Newer > 0 && f.Damaged > 0:
		return statusError{fmt.Errorf("%s written by a newer version of beaver: inspect the directory with that one; this one finds %s damaged",
			plural(f.Newer, "file"), plural(f.Damaged, "place")), exitFailure}
	case f.Newer > 0:
		return statusError{fmt.Errorf("%s written by a newer version of beaver: nothing is known to be damaged; inspect the directory with that version",
			plural(f.Newer, "file")), exitFailure}
	case f.Damaged > 0:
		return statusError{fmt.Errorf("%s damaged; copy the directory before anything else", plural(f.Damaged, "place")), exitFailure}
	}
	return nil
}

// ofNewer tells the reason of a file that a newer program wrote: an identity's or, of the log, a wal.VersionError's, of which
// only the text comes along.
func ofNewer(reason string) bool {
	return strings.HasSuffix(reason, ": use a newer program") || strings.HasSuffix(reason, ": start a newer one")
}

// count takes note of what is wrong with a file.
func (f *inspection) count(reason string) {
	if ofNewer(reason) {
		f.Newer++
	} else {
		f.Damaged++
	}
}

func inspect(dir string, entries bool) (*inspection, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, usage("%s is not a directory", dir)
	}
	found := &inspection{DataDir: dir, Files: []fileSummary{}, Snapshots: []snapshotSummary{}}
	if _, err := os.Stat(filepath.Join(dir, logDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, usage("%s has no directory %q: it is not a data directory of a node", dir, logDir)
	}
	if err := found.identity(dir); err != nil {
		return nil, err
	}
	if err := found.membership(dir); err != nil {
		return nil, err
	}
	if err := found.log(dir, entries); err != nil {
		return nil, err
	}
	return found, found.snapshots(dir)
}

// identity notes whose directory it is. A file that is missing or damaged counts as damage: a node does not start without it.
func (f *inspection) identity(dir string) error {
	id, err := host.ReadIdentity(vfs.OS(), dir)
	bad, isBad := errors.AsType[*host.IdentityError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.damagedIdentity("is missing: restore it from a backup")
	case isBad:
		f.damagedIdentity(bad.Reason)
	case err != nil:
		return err
	default:
		f.Identity = &identitySummary{ClusterID: fmt.Sprintf("%016x", id.Cluster), NodeID: id.Node, Format: id.Format}
	}
	return nil
}

func (f *inspection) damagedIdentity(reason string) {
	f.count(reason)
	f.Files = append(f.Files, fileSummary{File: identityFile, Kind: identityKind, Damage: reason})
}

func (f *inspection) log(dir string, entries bool) error {
	return wal.Inspect(vfs.OS(), filepath.Join(dir, logDir), func(r wal.Record) error {
		switch r.Kind {
		case wal.RecordTailFile, wal.RecordSegment, wal.RecordOther:
			f.Files = append(f.Files, fileSummary{
				File: relative(f.DataDir, r.File), Kind: string(r.Kind), Bytes: r.Bytes, Shard: int(r.Shard), First: r.First, Last: r.Last, Entries: r.Count,
			})
		case wal.RecordDamage:
			f.count(r.Reason)
			f.damage(r)
		case wal.RecordEntry:
			if n := len(f.Files); n > 0 && f.Files[n-1].Kind == string(wal.RecordTailFile) {
				f.Files[n-1].Entries++
			}
		case wal.RecordState, wal.RecordMark, wal.RecordSeal, wal.RecordEnd:
		}
		if entries {
			r.File = relative(f.DataDir, r.File)
			f.Entries = append(f.Entries, r)
		}
		return nil
	})
}

// relative is a file's name within the data directory.
func relative(dir, file string) string {
	if name, err := filepath.Rel(dir, file); err == nil {
		return name
	}
	return file
}

// damage notes damage with its file.
func (f *inspection) damage(r wal.Record) {
	text := fmt.Sprintf("at offset %d: %s", r.Offset, r.Reason)
	for i := range f.Files {
		if f.Files[i].File == relative(f.DataDir, r.File) && f.Files[i].Damage == "" {
			f.Files[i].Damage = text
			return
		}
	}
	f.Files = append(f.Files, fileSummary{File: relative(f.DataDir, r.File), Kind: string(r.Kind), Bytes: r.Bytes, Damage: text})
}

func (f *inspection) snapshots(dir string) error {
	root := filepath.Join(dir, snapshotsDir)
	shards, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, s := range shards {
		number, err := strconv.Atoi(s.Name())
		if err != nil || !s.IsDir() {
			continue
		}
		files, err := snapshot.List(vfs.OS(), filepath.Join(root, s.Name()))
		if err != nil {
			return err
		}
		for _, file := range files {
			f.snapshot(number, file)
		}
	}
	return nil
}

func (f *inspection) snapshot(shard int, file snapshot.File) {
	sum := snapshotSummary{Shard: shard, File: filepath.Base(file.Path), Index: file.Index, Term: file.Meta.Term, Bytes: file.Bytes}
	if info, err := os.Stat(file.Path); err == nil {
		sum.TakenAt = info.ModTime()
	}
	if file.Err != nil {
		sum.Damage = file.Err.Error()
		if _, newer := errors.AsType[*snapshot.VersionError](file.Err); newer {
			f.Newer++
		} else {
			f.Damaged++
		}
	} else {
		sum.Fingerprint = fmt.Sprintf("%016x", file.Meta.Fingerprint)
	}
	f.Snapshots = append(f.Snapshots, sum)
}

func (a *app) printInspection(found *inspection) error {
	if a.json() {
		return a.printJSON(found)
	}
	if id := found.Identity; id != nil {
		line := fmt.Sprintf("node %d of cluster %s, format %d\n", id.NodeID, id.ClusterID, id.Format)
		if m := found.Membership; m != nil {
			line += m.String() + "\n"
		}
		if err := a.print("%s\n", line); err != nil {
			return err
		}
	}
	rows := make([]string, len(found.Files))
	for i, f := range found.Files {
		span := ""
		if f.Last > 0 {
			span = fmt.Sprintf("%d to %d", f.First, f.Last)
		}
		shard := ""
		if f.Kind == string(wal.RecordSegment) {
			shard = strconv.Itoa(f.Shard)
		}
		rows[i] = row(f.File, f.Kind, byteSize(f.Bytes), shard, f.Entries, span, f.Damage)
	}
	if err := a.table("FILE\tKIND\tSIZE\tSHARD\tENTRIES\tINDEXES\tDAMAGE", rows); err != nil {
		return err
	}
	rows = make([]string, len(found.Snapshots))
	for i, s := range found.Snapshots {
		rows[i] = row(s.Shard, s.File, s.Index, byteSize(s.Bytes), a.ago(s.TakenAt), s.Fingerprint, s.Damage)
	}
	if err := a.table("\nSHARD\tSNAPSHOT\tINDEX\tSIZE\tTAKEN\tFINGERPRINT\tDAMAGE", rows); err != nil {
		return err
	}
	return a.printEntries(found.Entries)
}

func (a *app) printEntries(records []wal.Record) error {
	if len(records) == 0 {
		return nil
	}
	rows := make([]string, len(records))
	for i, r := range records {
		rows[i] = row(r.File, r.Offset, r.Kind, r.Shard, r.Index, r.Term, r.Bytes, r.Reason)
	}
	return a.table("\nFILE\tOFFSET\tKIND\tSHARD\tINDEX\tTERM\tBYTES\tDAMAGE", rows)
}
