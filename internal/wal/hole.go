package wal

import "errors"

// A hole is an entry of the contiguous tail whose data is damaged, while its place and its name (index, term, type, length,
// checksum) are known: the header of its frame is good, or it was read before. Without Options.KeepHoles, Open refuses a log
// with holes. With it, whoever owns a shard must keep its replica out of its group until the holes are filled: no vote, no
// acknowledgement, no campaign (package replica). Then nothing that the replica promised is broken:
//
//   - Its votes are kept, since the frame of an entry holds no hard state. What a damaged frame of a hard state means, or one whose header
//     is damaged so that it may have been one, is worked out in lost.go.
//   - Its acknowledgements are kept, since nothing is cut off: last index and last term stay what they were, and what fills a
//     hole has the very name of what was lost.
//
// An entry that was not committed may be nowhere else. Then only a snapshot fills the hole: one of the group at or above it,
// which shows that the entry was committed and is part of it, or was not and is void. The log cannot tell, and does not guess.
//
// Crash points: a hole is filled in place, and the header of its frame is not written again (rewrite). Torn, it is a hole again.

// isHole reports whether what is wrong with a frame makes it a hole.
func isHole(h *frameHeader, err error) bool {
	return h.kind == kindEntry && errors.Is(err, errFrameData)
}

// noteHole notes the entry that was pushed last. REQUIRES: Open is under way.
func (s *shardLog) noteHole(h *frameHeader) error {
	if len(s.wanted) >= wantedMax {
		return errFrameData
	}
	if s.wanted == nil {
		s.wanted = make(map[uint64]*want)
	}
	name := Name{Index: h.index}
	name.know(h.term, packSize(int(h.dataBytes), h.entryType), h.dataCRC)
	s.wanted[h.index] = &want{name: name, done: make(chan struct{})}
	return nil
}

// holes returns the first and the last hole from an index on. REQUIRES: Log.mu.
func (s *shardLog) holes(from uint64) (first, last uint64) {
	for index := range s.wanted {
		if index < from {
			continue
		}
		if _, ok := s.find(index); !ok {
			continue
		}
		if first == 0 || index < first {
			first = index
		}
		last = max(last, index)
	}
	for _, g := range s.gaps {
		if g.last < from {
			continue
		}
		if at := max(g.first, from); first == 0 || at < first {
			first = at
		}
		last = max(last, g.last)
	}
	return first, last
}

// Holes returns the first and the last entry from an index on that are in the tail, were found damaged, and are not written anew;
// 0 when there is none. Those of which not even the name is known are among them: see Gap.
func (l *Log) Holes(shard ShardID, from uint64) (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.shards[shard]; s != nil {
		return s.holes(from)
	}
	return 0, 0
}
