package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	magic         = "BVRSNAP\n"
	formatVersion = 1

	prefixBytes      = 16
	fixedHeaderBytes = 2 + 2 + 4 + 8 + 8 + 8 + 4
	crcBytes         = 4
	chunkHeaderBytes = 28

	kindData = 1
	kindEnd  = 2
	endBytes = 8
)

func crc(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

func appendHeader(dst []byte, m Meta) ([]byte, error) {
	if len(m.ConfState) > ConfStateBytesMax {
		return nil, fmt.Errorf("%w: conf state has %d bytes, at most %d", ErrTooLarge, len(m.ConfState), ConfStateBytesMax)
	}
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, magic...)
	dst = le.AppendUint32(dst, formatVersion)
	dst = le.AppendUint32(dst, crc(dst[start:]))
	start = len(dst)
	dst = le.AppendUint16(dst, m.Shard)
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, m.MachineVersion)
	dst = le.AppendUint64(dst, m.Index)
	dst = le.AppendUint64(dst, m.Term)
	dst = le.AppendUint64(dst, m.Fingerprint)
	dst = le.AppendUint32(dst, uint32(len(m.ConfState)))
	dst = append(dst, m.ConfState...)
	return le.AppendUint32(dst, crc(dst[start:])), nil
}

// readHeader returns the header and where the chunks start.
func readHeader(r io.ReaderAt, path string, size int64) (m Meta, start int64, err error) {
	le := binary.LittleEndian
	var fixed [prefixBytes + fixedHeaderBytes]byte
	if err := readFull(r, fixed[:prefixBytes], 0, size); err != nil {
		return Meta{}, 0, readError(path, 0, err)
	}
	prefix := fixed[:prefixBytes]
	switch version := le.Uint32(prefix[8:]); {
	case string(prefix[:8]) != magic:
		return Meta{}, 0, &Damage{path, 0, "it does not start like a snapshot"}
	case crc(prefix[:12]) != le.Uint32(prefix[12:]):
		return Meta{}, 0, &Damage{path, 0, "wrong checksum of the prefix"}
	case version > formatVersion:
		return Meta{}, 0, &VersionError{path, version, formatVersion}
	case version == 0:
		return Meta{}, 0, &Damage{path, 8, "format version 0"}
	}
	if err := readFull(r, fixed[prefixBytes:], prefixBytes, size); err != nil {
		return Meta{}, 0, readError(path, prefixBytes, err)
	}
	confBytes := le.Uint32(fixed[prefixBytes+fixedHeaderBytes-4:])
	if confBytes > ConfStateBytesMax {
		return Meta{}, 0, &Damage{path, prefixBytes, fmt.Sprintf("conf state of %d bytes", confBytes)}
	}
	h := make([]byte, fixedHeaderBytes+int(confBytes)+crcBytes)
	if err := readFull(r, h, prefixBytes, size); err != nil {
		return Meta{}, 0, readError(path, prefixBytes, err)
	}
	body := h[:len(h)-crcBytes]
	if crc(body) != le.Uint32(h[len(body):]) {
		return Meta{}, 0, &Damage{path, prefixBytes, "wrong checksum of the header"}
	}
	if le.Uint16(h[2:]) != 0 {
		return Meta{}, 0, &Damage{path, prefixBytes + 2, "bytes that must be zero are not"}
	}
	m = Meta{
		Shard:          le.Uint16(h),
		MachineVersion: le.Uint32(h[4:]),
		Index:          le.Uint64(h[8:]),
		Term:           le.Uint64(h[16:]),
		Fingerprint:    le.Uint64(h[24:]),
	}
	if confBytes > 0 {
		m.ConfState = body[fixedHeaderBytes:]
	}
	return m, prefixBytes + int64(len(h)), nil
}

// readFull reads p whole, or says that the file ends before.
func readFull(r io.ReaderAt, p []byte, offset, size int64) error {
	if offset+int64(len(p)) > size {
		return io.ErrUnexpectedEOF
	}
	n, err := r.ReadAt(p, offset)
	if n == len(p) {
		return nil // io.ReaderAt allows io.EOF beside a whole read
	}
	if err == nil {
		err = errors.New("short read without an error")
	}
	return err
}
