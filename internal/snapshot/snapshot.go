package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/beaver-raft/beaver/internal/vfs"
)

var (
	// ErrNone says that there is no snapshot: the shard starts from its log alone.
	ErrNone = errors.New("no snapshot")
	// ErrAllDamaged says that there are snapshots and none can be loaded. Starting from the log alone would lose what
	// it has dropped already.
	ErrAllDamaged = errors.New("every snapshot is damaged; restore one from a backup, or this shard from another node")
	// ErrTooLarge says that a snapshot is over a limit and was not written.
	ErrTooLarge = errors.New("snapshot too large")
)

// Meta says what a snapshot is of.
type Meta struct {
	Shard          uint16
	Index, Term    uint64 // the last entry whose effect it contains
	ConfState      []byte // opaque here: the shard's replicas as of Index
	Fingerprint    uint64 // of the state, to check after loading and after replay
	MachineVersion uint32 // of the content's encoding
}

// Damage is a snapshot file that cannot be used, and where it is wrong.
type Damage struct {
	Path   string
	Offset int64
	Reason string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("snapshot %s is damaged at offset %d: %s", d.Path, d.Offset, d.Reason)
}

// VersionError says that a newer Beaver wrote a file.
type VersionError struct {
	Path           string
	Version, Known uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("snapshot %s has format version %d and this binary knows up to %d: start the newer beaver that wrote it",
		e.Path, e.Version, e.Known)
}

// Loaded is a snapshot that was checked whole. Close it after reading.
type Loaded struct {
	Meta    Meta
	Path    string
	Bytes   int64     // of the file
	Content io.Reader // checks each chunk once more; a *Damage error if the disk changed its mind

	file vfs.File
}

// ReadAt reads the file's own bytes, all Bytes of them: what Adopt makes a snapshot of elsewhere.
func (l *Loaded) ReadAt(p []byte, offset int64) (int, error) { return l.file.ReadAt(p, offset) }

// Close closes the file behind Content.
func (l *Loaded) Close() error { return l.file.Close() }

// Write stores a snapshot durably in dir, creating it if missing, and returns the bytes of the file. When it fails
// nothing but a temporary file may be left, which is removed now or by the next Write. A snapshot of the same index is
// replaced. It does not Prune.
func Write(fsys vfs.FS, dir string, m Meta, encode func(io.Writer) error) (bytes int64, err error) {
	header, err := appendHeader(nil, m)
	if err != nil {
		return 0, err
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return 0, fmt.Errorf("make snapshot directory: %w", err)
	}
	if err := removeTemporary(fsys, dir); err != nil {
		return 0, err
	}
	temporary := dir + "/" + fileName(m.Index) + temporarySuffix
	bytes, err = writeFile(fsys, temporary, m.Index, header, encode)
	if err != nil {
		_ = fsys.Remove(temporary) // gives a full disk its room back; if this fails too, the next Write removes it
		return 0, fmt.Errorf("write snapshot %d: %w", m.Index, err)
	}
	if err := fsys.Rename(temporary, dir+"/"+fileName(m.Index)); err != nil {
		return 0, fmt.Errorf("name snapshot %d: %w", m.Index, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return 0, fmt.Errorf("sync snapshot directory: %w", err)
	}
	return bytes, nil
}

// writeFile makes the whole file and syncs it.
func writeFile(fsys vfs.FS, path string, index uint64, header []byte, encode func(io.Writer) error) (bytes int64, err error) {
	f, err := fsys.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	w := newChunkWriter(f, index, header)
	if err := encode(w); err != nil {
		return 0, err
	}
	if err := w.finish(); err != nil {
		return 0, err
	}
	return w.offset, f.Sync()
}

// Load opens the newest good snapshot. Files that are damaged are listed and passed over. The error is ErrNone when there
// is no snapshot at all, ErrAllDamaged when none is good, and a *VersionError when a newer binary has been here, even if
// older files could be read: going back to them would undo its work.
func Load(fsys vfs.FS, dir string) (*Loaded, []Damage, error) {
	indexes, err := listIndexes(fsys, dir)
	if err != nil {
		return nil, nil, err
	}
	if len(indexes) == 0 {
		return nil, nil, ErrNone
	}
	var damages []Damage
	for _, index := range indexes {
		loaded, err := open(fsys, dir, index)
		if damage, ok := errors.AsType[*Damage](err); ok {
			damages = append(damages, *damage)
			continue
		}
		return loaded, damages, err
	}
	paths := make([]string, len(damages))
	for i := range damages {
		paths[i] = damages[i].Error()
	}
	return nil, damages, fmt.Errorf("%w: %s", ErrAllDamaged, strings.Join(paths, "; "))
}

// OpenAt opens the snapshot of an index. Errors: fs.ErrNotExist, a *Damage, a *VersionError, or that of the disk.
func OpenAt(fsys vfs.FS, dir string, index uint64) (*Loaded, error) { return open(fsys, dir, index) }

// FileName is the name of the snapshot of an index in its directory.
func FileName(index uint64) string { return fileName(index) }

// Adopt moves the snapshot of an index from a directory on the same disk, where it is whole and synced, into dir, creating it
// if missing, and makes that durable. One that is gone from there was moved before: it may be called again after a crash. An
// error may be a failed sync, after which the process must end.
func Adopt(fsys vfs.FS, from, dir string, index uint64) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return fmt.Errorf("make snapshot directory: %w", err)
	}
	name := fileName(index)
	err := fsys.Rename(from+"/"+name, dir+"/"+name)
	if isMissing(err) {
		_, err = fsys.Stat(dir + "/" + name)
	}
	if err != nil {
		return fmt.Errorf("adopt snapshot %d: %w", index, err)
	}
	// A process that was killed may have left dir itself a name that is seen and not durable.
	for _, d := range [...]string{path.Dir(dir), dir, from} {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	return nil
}

// open checks one file whole and returns it ready to read from the start.
func open(fsys vfs.FS, dir string, index uint64) (*Loaded, error) {
	path := dir + "/" + fileName(index)
	f, err := fsys.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	loaded, err := check(f, path, index)
	if err != nil {
		_ = f.Close() // only read from
		return nil, err
	}
	loaded.file = f
	return loaded, nil
}

func check(f vfs.File, path string, index uint64) (*Loaded, error) {
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	m, start, err := readHeader(f, path, size)
	if err != nil {
		return nil, err
	}
	if m.Index != index {
		return nil, &Damage{path, 0, fmt.Sprintf("it is named for index %d and holds index %d", index, m.Index)}
	}
	if _, err := io.Copy(io.Discard, newChunkReader(f, path, size, start, index)); err != nil {
		return nil, err
	}
	return &Loaded{Meta: m, Path: path, Bytes: size, Content: newChunkReader(f, path, size, start, index)}, nil
}

// readError tells damage, which is about this file, from trouble that any file would meet.
func readError(path string, offset int64, err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Damage{path, offset, "the file is cut short"}
	case errors.Is(err, syscall.EIO):
		return &Damage{path, offset, "the disk cannot read it: " + err.Error()}
	default:
		return fmt.Errorf("read snapshot: %w", err)
	}
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
