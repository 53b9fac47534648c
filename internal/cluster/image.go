package cluster

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// An image is the whole catalog. Integers are little endian. The first version has no nodes and no leaders, the second one no
// growths and no queues that moved, and the third one no queues that are not plain, which are those of several partitions; each is
// written while there are none.
//
//	┌───────────┬─────────┬────────────┬─────────┬─────┬────────────┬─────────────┐
//	│ "BVCATLG4"│ applied │ cluster id │ now     │ last│ last       │ queues,     │
//	│ 8 bytes   │ u64     │ u64        │ i64 ms  │ u32 │ worker u64 │ workers u32 │
//	├───────────┴─────────┴────────────┴─────────┴─────┴────────────┴─────────────┤
//	│ last node u32, nodes u32, leaders u32, growths u32                          │
//	├─────────────────────────────────────────────────────────────────────────────┤
//	│ length u32, record × (queues by name, workers by id, nodes by id, leaders   │
//	│ by shard, growths by shard)                                                 │
//	├─────────────────────────────────────────────────────────────────────────────┤
//	│ fingerprint u64                                                             │
//	└─────────────────────────────────────────────────────────────────────────────┘
const (
	imageMagic       = "BVCATLG4"
	imageMagicThird  = "BVCATLG3"
	imageMagicSecond = "BVCATLG2"
	imageMagicFirst  = "BVCATLG1"
	imageNodesBytes  = 4 + 4 + 4
	imageHeaderBytes = 8 + 8 + 8 + 8 + 4 + 8 + 4 + 4
)

// ErrBadImage is wrapped by every error of Restore that is not its reader's.
var ErrBadImage = errors.New("catalog image is damaged")

// Image is a frozen catalog. It may be read from one other goroutine while the catalog goes on.
type Image struct{ c Catalog }

// Snapshot freezes the state in O(1): the maps are copied on write.
func (c *Catalog) Snapshot() *Image {
	frozen := *c
	frozen.queues = c.queues.Copy()
	frozen.workers = c.workers.Copy()
	frozen.nodes = c.nodes.Copy()
	frozen.preferred = c.preferred.Copy()
	frozen.homes, frozen.berths = nil, nil
	return &Image{c: frozen}
}

// Live is empty: the catalog holds all it knows and refers to no log entry.
func (img *Image) Live() *roaring64.Bitmap { return roaring64.New() }

// Fingerprint is that of the frozen state.
func (img *Image) Fingerprint() uint64 { return img.c.Fingerprint() }

// Applied is the index that the frozen state includes.
func (img *Image) Applied() uint64 { return img.c.applied }

// WriteTo encodes the image.
func (img *Image) WriteTo(w io.Writer) (int64, error) {
	c := &img.c
	out := countingWriter{w: bufio.NewWriterSize(w, 64<<10)}
	head := make([]byte, 0, imageHeaderBytes)
	head = append(head, img.magic()...)
	head = binary.LittleEndian.AppendUint64(head, c.applied)
	head = binary.LittleEndian.AppendUint64(head, uint64(c.id))
	head = binary.LittleEndian.AppendUint64(head, uint64(c.now))
	head = binary.LittleEndian.AppendUint32(head, uint32(c.lastQueue))
	head = binary.LittleEndian.AppendUint64(head, uint64(c.lastWorker))
	head = binary.LittleEndian.AppendUint32(head, uint32(c.queues.Len()))
	head = binary.LittleEndian.AppendUint32(head, uint32(c.workers.Len()))
	if magic := img.magic(); magic != imageMagicFirst {
		head = binary.LittleEndian.AppendUint32(head, uint32(c.lastNode))
		head = binary.LittleEndian.AppendUint32(head, uint32(c.nodes.Len()))
		head = binary.LittleEndian.AppendUint32(head, uint32(c.preferred.Len()))
		if magic == imageMagic || magic == imageMagicThird {
			head = binary.LittleEndian.AppendUint32(head, uint32(len(c.growths)))
		}
	}
	out.write(head)
	var record []byte
	for q := range c.Queues() {
		record = appendQueue(record[:0], q)
		out.record(record)
	}
	for worker := range c.Workers() {
		record = appendWorker(record[:0], worker)
		out.record(record)
	}
	for n := range c.Nodes() {
		record = appendNode(record[:0], n)
		out.record(record)
	}
	c.preferred.Scan(func(id, node uint64) bool {
		record = binary.AppendUvarint(binary.AppendUvarint(record[:0], id), node)
		out.record(record)
		return true
	})
	for i := range c.growths {
		record = appendGrowth(record[:0], &c.growths[i])
		out.record(record)
	}
	out.write(binary.LittleEndian.AppendUint64(nil, c.Fingerprint()))
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.n, out.err
}

func (img *Image) magic() string {
	switch {
	case img.c.odd > 0:
		return imageMagic
	case len(img.c.growths) > 0 || img.c.moved > 0:
		return imageMagicThird
	case img.c.lastNode != 0:
		return imageMagicSecond
	}
	return imageMagicFirst
}

// Restore reads what an Image wrote. Damaged or hostile input gives an error that wraps ErrBadImage.
func Restore(r io.Reader) (*Catalog, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head := make([]byte, imageHeaderBytes)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, imageError("header", err)
	}
	magic := string(head[:8])
	if magic != imageMagicFirst && magic != imageMagicSecond && magic != imageMagicThird && magic != imageMagic {
		return nil, fmt.Errorf("%w: it does not start with %q", ErrBadImage, imageMagic)
	}
	c := New()
	c.applied = binary.LittleEndian.Uint64(head[8:])
	c.id = ID(binary.LittleEndian.Uint64(head[16:]))
	c.now = queue.Millis(binary.LittleEndian.Uint64(head[24:]))
	c.lastQueue = queue.QueueID(binary.LittleEndian.Uint32(head[32:]))
	c.lastWorker = queue.WorkerID(binary.LittleEndian.Uint64(head[36:]))
	queues, workers := binary.LittleEndian.Uint32(head[44:]), binary.LittleEndian.Uint32(head[48:])
	if queues > QueuesMax || workers > WorkersMax {
		return nil, fmt.Errorf("%w: it claims %d queues and %d workers", ErrBadImage, queues, workers)
	}
	nodes, leaders, growths, err := c.restoreCounts(in, magic)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, workerCommandBytesMax)
	for range queues {
		if err := c.restoreQueue(in, buf); err != nil {
			return nil, err
		}
	}
	for range workers {
		if err := c.restoreWorker(in, buf); err != nil {
			return nil, err
		}
	}
	for range nodes {
		if err := c.restoreNode(in, buf); err != nil {
			return nil, err
		}
	}
	for range leaders {
		if err := c.restorePreferred(in, buf); err != nil {
			return nil, err
		}
	}
	for range growths {
		if err := c.restoreGrowth(in, buf); err != nil {
			return nil, err
		}
	}
	var tail [8]byte
	if _, err := io.ReadFull(in, tail[:]); err != nil {
		return nil, imageError("fingerprint", err)
	}
	if binary.LittleEndian.Uint64(tail[:]) != c.Fingerprint() {
		return nil, fmt.Errorf("%w: its fingerprint does not match its records", ErrBadImage)
	}
	return c, nil
}

// restoreCounts reads the row of numbers that the first version does not have.
func (c *Catalog) restoreCounts(in io.Reader, magic string) (nodes, leaders, growths uint32, err error) {
	if magic == imageMagicFirst {
		return 0, 0, 0, nil
	}
	row := make([]byte, imageNodesBytes, imageNodesBytes+4)
	grown := magic == imageMagic || magic == imageMagicThird
	if grown {
		row = row[:cap(row)]
	}
	if _, err := io.ReadFull(in, row); err != nil {
		return 0, 0, 0, imageError("header", err)
	}
	c.lastNode = shard.NodeID(binary.LittleEndian.Uint32(row))
	nodes, leaders = binary.LittleEndian.Uint32(row[4:]), binary.LittleEndian.Uint32(row[8:])
	if nodes > NodeRecordsMax || leaders > 1<<16 || c.lastNode == 0 && (!grown || nodes > 0) || c.lastNode > shard.NodeMax {
		return 0, 0, 0, fmt.Errorf("%w: it claims %d nodes, the last one %d, and %d leaders", ErrBadImage, nodes, c.lastNode, leaders)
	}
	if grown {
		if growths = binary.LittleEndian.Uint32(row[imageNodesBytes:]); growths > ShardsMax {
			return 0, 0, 0, fmt.Errorf("%w: it claims %d growths", ErrBadImage, growths)
		}
	}
	return nodes, leaders, growths, nil
}

func (c *Catalog) restoreGrowth(in io.Reader, buf []byte) error {
	record, err := readRecord(in, buf)
	if err != nil {
		return err
	}
	d := decoder{b: record}
	g := d.growth()
	if !d.end() || len(c.growths) > 0 && int(g.First) != c.Shards()+1 {
		return fmt.Errorf("%w: bad record of a growth", ErrBadImage)
	}
	c.putGrowth(g)
	return nil
}

func (c *Catalog) restoreQueue(in io.Reader, buf []byte) error {
	record, err := readRecord(in, buf)
	if err != nil {
		return err
	}
	d := decoder{b: record}
	q := d.queue()
	last, _, any := c.queues.Max()
	if !d.end() || q.Home.ID > c.lastQueue || q.ID > c.lastQueue || (any && q.Name <= last) {
		return fmt.Errorf("%w: bad queue record", ErrBadImage)
	}
	c.putQueue(q)
	return nil
}

func (c *Catalog) restoreWorker(in io.Reader, buf []byte) error {
	record, err := readRecord(in, buf)
	if err != nil {
		return err
	}
	d := decoder{b: record}
	w := &Worker{ID: queue.WorkerID(d.uint(1<<64 - 1)), Registered: queue.Millis(d.uint(millisMax))}
	w.Info = d.workerInfo()
	last, _, any := c.workers.Max()
	if !d.end() || w.ID == 0 || w.ID > c.lastWorker || (any && uint64(w.ID) <= last) {
		return fmt.Errorf("%w: bad worker record", ErrBadImage)
	}
	c.putWorker(w)
	return nil
}

func (c *Catalog) restoreNode(in io.Reader, buf []byte) error {
	record, err := readRecord(in, buf)
	if err != nil {
		return err
	}
	d := decoder{b: record}
	n := d.node()
	last, _, any := c.nodes.Max()
	if !d.end() || n.ID > c.lastNode || (any && uint64(n.ID) <= last) {
		return fmt.Errorf("%w: bad node record", ErrBadImage)
	}
	c.putNode(&n)
	return nil
}

func (c *Catalog) restorePreferred(in io.Reader, buf []byte) error {
	record, err := readRecord(in, buf)
	if err != nil {
		return err
	}
	d := decoder{b: record}
	id, node := shard.ID(d.uint(1<<16-1)), d.nodeID()
	last, _, any := c.preferred.Max()
	if !d.end() || (any && uint64(id) <= last) {
		return fmt.Errorf("%w: bad record of a leader", ErrBadImage)
	}
	c.putPreferred(id, node)
	return nil
}

// MarshalText encodes a queue as its record, as it travels between nodes; one without an id is empty.
func (q Queue) MarshalText() ([]byte, error) {
	if q.ID == 0 {
		return nil, nil
	}
	return base64.RawStdEncoding.AppendEncode(nil, appendQueue(nil, &q)), nil
}

// UnmarshalText decodes what MarshalText encoded.
func (q *Queue) UnmarshalText(text []byte) error {
	*q = Queue{}
	if len(text) == 0 {
		return nil
	}
	record, err := base64.RawStdEncoding.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("decode a queue's record: %w", err)
	}
	d := decoder{b: record}
	*q = *d.queue()
	if !d.end() {
		return errors.New("a queue's record does not decode")
	}
	return nil
}

// queue takes a queue's record.
func (d *decoder) queue() *Queue {
	q := &Queue{ID: queue.QueueID(d.uint(1<<32 - 1)), Version: d.uint(1<<64 - 1)}
	q.Name = d.text(QueueNameBytesMax)
	first := uint16(d.uint(1<<16 - 1))
	q.Settings = d.settings()
	d.place(q, first)
	if q.ID == 0 || !ValidQueueName(q.Name) {
		d.fail()
	}
	return q
}

func appendQueue(dst []byte, q *Queue) []byte {
	dst = binary.AppendUvarint(dst, uint64(q.ID))
	dst = binary.AppendUvarint(dst, q.Version)
	dst = appendText(dst, q.Name)
	dst = binary.AppendUvarint(dst, uint64(q.Shard()))
	return appendPlace(AppendSettings(dst, &q.Settings), q)
}

func appendWorker(dst []byte, w *Worker) []byte {
	dst = binary.AppendUvarint(dst, uint64(w.ID))
	dst = binary.AppendUvarint(dst, uint64(w.Registered))
	return appendWorkerInfo(dst, &w.Info)
}

func readRecord(in io.Reader, buf []byte) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, imageError("record length", err)
	}
	n := binary.LittleEndian.Uint32(size[:])
	if int64(n) > int64(len(buf)) {
		return nil, fmt.Errorf("%w: record of %d bytes", ErrBadImage, n)
	}
	if _, err := io.ReadFull(in, buf[:n]); err != nil {
		return nil, imageError("record", err)
	}
	return buf[:n], nil
}

// imageError tells an image that ends too soon from a reader that failed.
func imageError(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends within its %s", ErrBadImage, what)
	}
	return fmt.Errorf("read catalog image's %s: %w", what, err)
}

// countingWriter keeps the first error and the count of bytes.
type countingWriter struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (cw *countingWriter) write(b []byte) {
	if cw.err != nil {
		return
	}
	var n int
	n, cw.err = cw.w.Write(b)
	cw.n += int64(n)
}

func (cw *countingWriter) record(b []byte) {
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(len(b)))
	cw.write(size[:])
	cw.write(b)
}
