package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beaver-raft/beaver/internal/vfs"
)

const (
	fileSuffix      = ".snapshot"
	temporarySuffix = ".tmp"
	indexDigits     = 20 // every uint64, so that names sort by index
)

func fileName(index uint64) string { return fmt.Sprintf("%0*d%s", indexDigits, index, fileSuffix) }

func parseFileName(name string) (index uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, fileSuffix)
	if !ok || len(digits) != indexDigits {
		return 0, false
	}
	index, err := strconv.ParseUint(digits, 10, 64)
	return index, err == nil && fileName(index) == name
}

// listIndexes returns the indexes that have a file, newest first; none when there is no directory.
func listIndexes(fsys vfs.FS, dir string) ([]uint64, error) {
	names, err := fsys.List(dir)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var indexes []uint64
	for _, name := range names {
		if index, ok := parseFileName(name); ok {
			indexes = append(indexes, index)
		}
	}
	slices.Sort(indexes)
	slices.Reverse(indexes)
	return indexes, nil
}

func removeTemporary(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		if _, ours := parseFileName(strings.TrimSuffix(name, temporarySuffix)); !ours || !strings.HasSuffix(name, temporarySuffix) {
			continue
		}
		if err := fsys.Remove(dir + "/" + name); err != nil {
			return fmt.Errorf("remove half-written snapshot: %w", err)
		}
	}
	return nil
}

// Exists reports whether a directory has any snapshot, good or damaged.
func Exists(fsys vfs.FS, dir string) (bool, error) {
	indexes, err := listIndexes(fsys, dir)
	return len(indexes) > 0, err
}

// File is one snapshot file, for inspection.
type File struct {
	Path  string
	Index uint64 // by its name
	Bytes int64
	Meta  Meta
	Err   error // nil when it is good; a *Damage or a *VersionError
}

// List reads and checks all snapshots of a directory, newest first. It changes nothing.
func List(fsys vfs.FS, dir string) ([]File, error) {
	indexes, err := listIndexes(fsys, dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(indexes))
	for _, index := range indexes {
		file := File{Path: dir + "/" + fileName(index), Index: index}
		info, err := fsys.Stat(file.Path)
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		file.Bytes = info.Size
		loaded, err := open(fsys, dir, index)
		switch {
		case err == nil:
			file.Meta = loaded.Meta
			err = loaded.Close()
		case unusable(err):
			file.Err, err = err, nil
		}
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// Prune removes good snapshots that have keep good ones newer than them; keep below 1 means KeepDefault. Damaged files, and
// those of a newer version, are neither counted nor removed.
func Prune(fsys vfs.FS, dir string, keep int) error {
	if keep < 1 {
		keep = KeepDefault
	}
	indexes, err := listIndexes(fsys, dir)
	if err != nil || len(indexes) <= keep {
		return err
	}
	good, removed := 0, false
	for _, index := range indexes {
		loaded, err := open(fsys, dir, index)
		if unusable(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := loaded.Close(); err != nil {
			return fmt.Errorf("prune snapshots: %w", err)
		}
		if good++; good <= keep {
			continue
		}
		if err := fsys.Remove(loaded.Path); err != nil {
			return fmt.Errorf("prune snapshots: %w", err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("prune snapshots: %w", err)
	}
	return nil
}

// unusable tells an error that is about one file from trouble with the disk or the process.
func unusable(err error) bool {
	if _, ok := errors.AsType[*Damage](err); ok {
		return true
	}
	_, ok := errors.AsType[*VersionError](err)
	return ok
}
