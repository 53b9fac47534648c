package queue

import "encoding/binary"

// Flags of a job item: which optional fields follow.
const (
	jobHasRunAt = 1 << iota
	jobHasExpiresAt
	jobHasMaxAttempts
	jobHasTimeout
	jobHasRetry
	jobHasMetadata
	jobHasOrderingKey
	jobHasUnique

	// jobOverrides are those in which a job differs from its queue's settings in what the machine needs later.
	jobOverrides = jobHasExpiresAt | jobHasMaxAttempts | jobHasTimeout | jobHasRetry
)

// Flags of what a job item says of its unique key.
const (
	uniqueStarted = 1 << iota
	uniqueHasFor
	uniqueHasHint
	uniqueFlagsAll = 1<<iota - 1
)

// jobFixedBytes is the part of a job item that is always there: up to and with the queue.
const jobFixedBytes = 8

// AppendJob appends a job item, under an enqueue header or alone:
//
//	┌──────────┬─────────┬──────────┬───────┬───────────┬─────────────────────┐
//	│ type = 3 │ version │ priority │ flags │ queue u32 │ enqueued at v       │
//	├──────────┴─────────┴──────────┴───────┴───────────┴─────────────────────┤
//	│ by flag: run at v, expires at v, max attempts v, timeout ms + 1 v, retry│
//	├─────────────────────────────────────────────────────────────────────────┤
//	│ kind b, content type b, by flag: metadata v × (key b, value b),         │
//	│ ordering key b, unique flags u8, unique key b, and by these flags:      │
//	│ unique for ms v, hint (shard v, position v)                             │
//	├─────────────────────────────────────────────────────────────────────────┤
//	│ payload: the rest                                                       │
//	└─────────────────────────────────────────────────────────────────────────┘
//
// The spec must be valid. An item with a unique key needs a batch of a later version: see BatchVersion.
func AppendJob(dst []byte, s *Spec) []byte { return AppendHintedJob(dst, s, JobID{}) }

// AppendHintedJob is AppendJob of a job whose unique key is held by another, which whoever sends it found on a shard where the
// queue was before: it is answered with that one, if the key is not held on this shard, and so remembered by its session.
func AppendHintedJob(dst []byte, s *Spec, holder JobID) []byte {
	var flags byte
	set := func(flag byte, on bool) {
		if on {
			flags |= flag
		}
	}
	set(jobHasRunAt, s.RunAt != 0)
	set(jobHasExpiresAt, s.ExpiresAt != 0)
	set(jobHasMaxAttempts, s.MaxAttempts != 0)
	set(jobHasTimeout, s.TimeoutMillis != 0)
	set(jobHasRetry, s.Retry.Kind != RetryDefault)
	set(jobHasMetadata, len(s.Metadata) > 0)
	set(jobHasOrderingKey, s.OrderingKey != "")
	set(jobHasUnique, s.UniqueKey != "")

	dst = append(appendHeader(dst, itemJob), s.Priority, flags)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.Queue))
	dst = binary.AppendUvarint(dst, uint64(s.EnqueuedAt))
	if flags&jobHasRunAt != 0 {
		dst = binary.AppendUvarint(dst, uint64(s.RunAt))
	}
	if flags&jobHasExpiresAt != 0 {
		dst = binary.AppendUvarint(dst, uint64(s.ExpiresAt))
	}
	if flags&jobHasMaxAttempts != 0 {
		dst = binary.AppendUvarint(dst, uint64(s.MaxAttempts))
	}
	if flags&jobHasTimeout != 0 {
		dst = binary.AppendUvarint(dst, uint64(s.TimeoutMillis+1))
	}
	if flags&jobHasRetry != 0 {
		dst = appendRetry(dst, &s.Retry)
	}
	dst = appendBytes(dst, s.Kind)
	dst = appendBytes(dst, s.ContentType)
	if flags&jobHasMetadata != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(s.Metadata)))
		for i := range s.Metadata {
			dst = appendBytes(dst, s.Metadata[i].Key)
			dst = appendBytes(dst, s.Metadata[i].Value)
		}
	}
	if flags&jobHasOrderingKey != 0 {
		dst = appendBytes(dst, s.OrderingKey)
	}
	if flags&jobHasUnique != 0 {
		dst = appendJobUnique(dst, s, holder)
	}
	return append(dst, s.Payload...)
}

func appendJobUnique(dst []byte, s *Spec, hint JobID) []byte {
	flags := len(dst)
	dst = appendBytes(append(dst, 0), s.UniqueKey)
	if s.UniqueUntil == UniqueUntilStarted {
		dst[flags] |= uniqueStarted
	}
	if s.UniqueForMillis != 0 {
		dst[flags] |= uniqueHasFor
		dst = binary.AppendUvarint(dst, uint64(s.UniqueForMillis))
	}
	if hint != (JobID{}) {
		dst[flags] |= uniqueHasHint
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(hint.Shard)), uint64(hint.Pos))
	}
	return dst
}

// The versions of batches that items need. A machine that reads only the former refuses an item that needs the latter, and its
// state would part from that of the others; so the batch says what it takes to read it.
const (
	batchPlain  = 1
	batchUnique = 2
)

// BatchVersion is the version of the batch in which an item may lie.
func BatchVersion(item []byte) uint8 {
	if len(item) >= jobFixedBytes && itemType(item[0]) == itemJob && item[3]&jobHasUnique != 0 {
		return batchUnique
	}
	return batchPlain
}

// jobItem is a job item taken apart without an allocation (but for the list of a retry policy of its own).
type jobItem struct {
	queue         QueueID
	priority      uint8
	flags         byte
	metadataCount int
	maxAttempts   uint32
	enqueuedAt    Millis
	runAt         Millis
	expiresAt     Millis
	timeoutMillis int64
	retry         Retry
	kind          []byte
	contentType   []byte
	metadata      []byte // its pairs, checked
	orderingKey   []byte
	payload       []byte
}

// uniqueItem is what a job item says of its unique key.
type uniqueItem struct {
	text      []byte
	forMillis int64
	until     UniqueUntil
	hint      JobID
	hash      UniqueHash // of the queue and both keys; see findHolder
}

// decodeJob takes a job item apart and checks every limit. u is written to when the item has a unique key.
func decodeJob(b []byte, j *jobItem, u *uniqueItem) bool {
	r, err := open(b, itemJob)
	if err != nil {
		return false
	}
	*j = jobItem{priority: r.u8(), flags: r.u8(), queue: QueueID(r.u32())}
	j.enqueuedAt = r.millis()
	if j.priority >= PriorityCount {
		return false
	}
	if j.flags != 0 && !r.jobOptions(j) {
		return false
	}
	j.kind = r.bytes(KindBytesMax)
	j.contentType = r.bytes(ContentTypeMax)
	if j.flags&jobHasMetadata != 0 && !r.jobMetadata(j) {
		return false
	}
	if j.flags&jobHasOrderingKey != 0 {
		if j.orderingKey = r.bytes(OrderKeyBytesMax); len(j.orderingKey) == 0 {
			return false
		}
	}
	if j.flags&jobHasUnique != 0 && !r.jobUnique(u) {
		return false
	}
	if r.bad || len(r.b) > PayloadBytesMax {
		return false
	}
	j.payload = r.b
	return true
}

func (r *reader) jobOptions(j *jobItem) bool {
	if j.flags&jobHasRunAt != 0 {
		j.runAt = r.millis()
	}
	if j.flags&jobHasExpiresAt != 0 {
		j.expiresAt = r.millis()
	}
	if j.flags&jobHasMaxAttempts != 0 {
		j.maxAttempts = uint32(r.upTo(MaxAttemptsMax))
	}
	if j.flags&jobHasTimeout != 0 {
		j.timeoutMillis = int64(r.upTo(DelayMillisMax+1)) - 1
	}
	if j.flags&jobHasRetry != 0 {
		j.retry = r.retry(true)
	}
	return !r.bad
}

func (r *reader) jobMetadata(j *jobItem) bool {
	j.metadataCount = int(r.upTo(MetadataCountMax))
	j.metadata = r.b
	total := 0
	for range j.metadataCount {
		total += len(r.bytes(MetadataBytesMax)) + len(r.bytes(MetadataBytesMax))
	}
	return !r.bad && j.metadataCount > 0 && total <= MetadataBytesMax
}

func (r *reader) jobUnique(u *uniqueItem) bool {
	flags := r.u8()
	*u = uniqueItem{text: r.bytes(UniqueKeyBytesMax)}
	if flags&uniqueStarted != 0 {
		u.until = UniqueUntilStarted
	}
	if flags&uniqueHasFor != 0 {
		if u.forMillis = int64(r.upTo(UniqueForMillisMax)); u.forMillis == 0 {
			return false
		}
	}
	if flags&uniqueHasHint != 0 {
		if u.hint = r.holder(); u.hint == (JobID{}) {
			return false
		}
	}
	return !r.bad && flags&^uniqueFlagsAll == 0 && len(u.text) > 0
}

// DecodeSpec returns the spec in a job item. Its payload aliases b.
func DecodeSpec(b []byte) (Spec, error) {
	var (
		j jobItem
		u uniqueItem
	)
	if !decodeJob(b, &j, &u) {
		return Spec{}, ErrMalformed
	}
	s := Spec{
		Queue: j.queue, Priority: j.priority, RunAt: j.runAt, ExpiresAt: j.expiresAt, MaxAttempts: j.maxAttempts,
		Retry: j.retry, TimeoutMillis: j.timeoutMillis, EnqueuedAt: j.enqueuedAt,
		Kind: string(j.kind), ContentType: string(j.contentType), OrderingKey: string(j.orderingKey), Payload: j.payload,
		UniqueKey: string(u.text), UniqueUntil: u.until, UniqueForMillis: u.forMillis,
	}
	if j.metadataCount > 0 {
		s.Metadata = make([]KeyValue, 0, j.metadataCount)
		r := reader{b: j.metadata}
		for range j.metadataCount {
			key := string(r.bytes(MetadataBytesMax))
			s.Metadata = append(s.Metadata, KeyValue{Key: key, Value: string(r.bytes(MetadataBytesMax))})
		}
	}
	return s, nil
}

// SpecQueue returns the queue and priority of a job item without looking at the rest.
func SpecQueue(b []byte) (QueueID, uint8, error) {
	if len(b) < jobFixedBytes || itemType(b[0]) != itemJob || b[1] != itemVersion || b[2] >= PriorityCount {
		return 0, 0, ErrMalformed
	}
	return QueueID(binary.LittleEndian.Uint32(b[4:])), b[2], nil
}

// Validate names the first field that breaks a limit. It does not look at the queue.
func (s *Spec) Validate() error {
	switch {
	case s.Priority >= PriorityCount:
		return invalid("priority", "is %d; want 0 (first) to %d (last)", s.Priority, PriorityCount-1)
	case s.RunAt < 0 || s.RunAt > millisMax:
		return invalid("run_at", "is out of range")
	case s.ExpiresAt < 0 || s.ExpiresAt > millisMax:
		return invalid("expires_at", "is out of range")
	case s.EnqueuedAt < 0 || s.EnqueuedAt > millisMax:
		return invalid("enqueued_at", "is out of range")
	case s.ExpiresAt != 0 && s.RunAt >= s.ExpiresAt:
		return invalid("expires_at", "must be after run_at")
	case s.MaxAttempts > MaxAttemptsMax:
		return invalid("max_attempts", "is %d; at most %d are allowed", s.MaxAttempts, MaxAttemptsMax)
	case s.TimeoutMillis < timeoutNone || s.TimeoutMillis > DelayMillisMax:
		return invalid("timeout", "is %d ms; want -1 (none), 0 (the queue's) or at most %d ms",
			s.TimeoutMillis, int64(DelayMillisMax))
	case len(s.Kind) > KindBytesMax:
		return tooLarge("kind", "has %d bytes; at most %d are allowed", len(s.Kind), KindBytesMax)
	case len(s.ContentType) > ContentTypeMax:
		return tooLarge("content_type", "has %d bytes; at most %d are allowed", len(s.ContentType), ContentTypeMax)
	case len(s.OrderingKey) > OrderKeyBytesMax:
		return tooLarge("ordering_key", "has %d bytes; at most %d are allowed", len(s.OrderingKey), OrderKeyBytesMax)
	case len(s.Payload) > PayloadBytesMax:
		return tooLarge("payload", "has %d bytes; at most %d are allowed", len(s.Payload), PayloadBytesMax)
	case len(s.Metadata) > MetadataCountMax:
		return tooLarge("metadata", "has %d keys; at most %d are allowed", len(s.Metadata), MetadataCountMax)
	}
	if err := s.validateUnique(); err != nil {
		return err
	}
	total := 0
	for i := range s.Metadata {
		total += len(s.Metadata[i].Key) + len(s.Metadata[i].Value)
	}
	if total > MetadataBytesMax {
		return tooLarge("metadata", "has %d bytes in all; at most %d are allowed", total, MetadataBytesMax)
	}
	return s.Retry.validate()
}

// validateUnique is Validate of the unique key and what belongs to it.
func (s *Spec) validateUnique() error {
	switch {
	case len(s.UniqueKey) > UniqueKeyBytesMax:
		return tooLarge("unique_key", "has %d bytes; at most %d are allowed", len(s.UniqueKey), UniqueKeyBytesMax)
	case s.UniqueUntil > UniqueUntilStarted:
		return invalid("unique_until", "is %d; want a known point at which the key is given up", s.UniqueUntil)
	case s.UniqueForMillis < 0 || s.UniqueForMillis > UniqueForMillisMax:
		return invalid("unique_for", "is %d ms; want 0 (no window) to %d ms", s.UniqueForMillis, int64(UniqueForMillisMax))
	case s.UniqueKey == "" && s.UniqueUntil != UniqueUntilEnded:
		return invalid("unique_until", "is set, but unique_key is missing; give both or neither")
	case s.UniqueKey == "" && s.UniqueForMillis != 0:
		return invalid("unique_for", "is set, but unique_key is missing; give both or neither")
	}
	return nil
}
