package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
)

// counters is a toy machine: an item "key" or "key|payload" adds one to a counter and its result is the new value. The payload
// of a key's newest addition stays live.
type counters struct {
	values  map[string]uint64
	newest  map[string]uint64 // entry index
	applied uint64
	print   uint64
	stamp   int64
}

func newCounters() *counters {
	return &counters{values: map[string]uint64{}, newest: map[string]uint64{}}
}

func (c *counters) apply(index uint64, item []byte) uint64 {
	key, _, _ := strings.Cut(string(item), "|")
	c.values[key]++
	c.newest[key] = index
	c.applied = index
	f := fnv.New64a()
	_ = binary.Write(f, binary.LittleEndian, []uint64{c.print, index})
	_, _ = f.Write(item)
	c.print = f.Sum64()
	return c.values[key]
}

// frozen is a copy of the counters.
type frozen struct{ *counters }

func (c *counters) freeze() frozen {
	return frozen{&counters{maps.Clone(c.values), maps.Clone(c.newest), c.applied, c.print, c.stamp}}
}

func (f frozen) Fingerprint() uint64 { return f.print }

func (f frozen) Live() *roaring64.Bitmap {
	b := roaring64.New()
	for _, index := range f.newest {
		b.Add(index)
	}
	return b
}

func (f frozen) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %d %d %d\n", f.print, f.applied, f.stamp, len(f.values))
	for _, k := range slices.Sorted(maps.Keys(f.values)) {
		fmt.Fprintf(&b, "%s %d %d\n", k, f.values[k], f.newest[k])
	}
	return b.WriteTo(w)
}

func (c *counters) restore(r io.Reader) error {
	*c = *newCounters()
	var n int
	if _, err := fmt.Fscanln(r, &c.print, &c.applied, &c.stamp, &n); err != nil {
		return err
	}
	for range n {
		var (
			k    string
			v, i uint64
		)
		if _, err := fmt.Fscanln(r, &k, &v, &i); err != nil {
			return err
		}
		c.values[k], c.newest[k] = v, i
	}
	return nil
}

// errUnknown is what a call gets whose batch was dropped with an unknown outcome.
var errUnknown = errors.New("outcome unknown")

// addition is a call that waits for its batch.
type addition struct {
	items shard.Items
	done  chan struct{}
	value uint64
	index uint64
	first int
	err   error
}

// driver drives counters: a small model of what the engine does.
type driver struct {
	*counters
	id        shard.ID
	node      uint64
	wakeupAt  int64 // set on the shard's goroutine
	onApplied func()
	events    []string // leadership changes

	mu      sync.Mutex
	leads   bool
	queue   []*addition
	batches map[uint64][]*addition
	seq     uint64
	settled []*addition
	gathers int

	past     map[uint64]uint64 // fingerprints by entry
	verified replica.Verification
}

func newDriver(id shard.ID) *driver {
	return &driver{counters: newCounters(), id: id, node: 1, batches: map[uint64][]*addition{}, past: map[uint64]uint64{}, seq: uint64(id) << 32}
}

// push queues an addition; the host must be woken.
func (d *driver) push(key string) *addition {
	a := &addition{done: make(chan struct{})}
	a.items.Commit(append(a.items.Buf(), key...))
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.leads {
		a.err = ErrStopped
		close(a.done)
		return a
	}
	d.queue = append(d.queue, a)
	return a
}

func (d *driver) Gather(b *shard.BatchBuilder, _ int64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gathers++
	d.seq++
	n := 0
	for n < len(d.queue) && b.Fits(&d.queue[n].items) {
		d.queue[n].first = b.Add(&d.queue[n].items)
		n++
	}
	if n > 0 {
		d.batches[d.seq] = slices.Clone(d.queue[:n])
		d.queue = slices.Delete(d.queue, 0, n)
	}
	return d.seq
}

func (d *driver) Apply(index uint64, h shard.Header, items [][]byte) {
	d.stamp = max(d.stamp, h.Stamp)
	results := make([]uint64, len(items))
	for i, item := range items {
		results[i] = d.apply(index, item)
		var at, logged uint64
		if n, _ := fmt.Sscanf(string(item), "!%d:%x", &at, &logged); n == 2 && d.past[at] != 0 {
			d.verified = replica.Verification{Index: at, Logged: logged, Own: d.past[at]}
		}
	}
	d.past[index] = d.print
	if d.onApplied != nil {
		d.onApplied()
	}
	if h.Proposer != d.node {
		return
	}
	for _, a := range d.batches[h.Sequence] {
		a.value, a.index = results[a.first], index
		d.settled = append(d.settled, a)
	}
	delete(d.batches, h.Sequence)
}

func (d *driver) Dropped(seq uint64, unknown bool) {
	for _, a := range d.batches[seq] {
		a.err = shard.ErrDropped
		if unknown {
			a.err = errUnknown
		}
		d.settled = append(d.settled, a)
	}
	delete(d.batches, seq)
}

func (d *driver) Settled() {
	for _, a := range d.settled {
		close(a.done)
	}
	d.settled = nil
}

func (d *driver) Stamp() int64 { return d.stamp }

func (d *driver) Wakeup() int64 { return d.wakeupAt }

func (d *driver) Leadership(leading bool, _ uint64) {
	d.events = append(d.events, fmt.Sprintf("leading=%v", leading))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leads = leading
	if !leading {
		for _, a := range d.queue {
			a.err = ErrStopped
			d.settled = append(d.settled, a)
		}
		d.queue = nil
	}
}

// Verified tells of an item "!index:fingerprint", which is no part of the state but in that it was applied.
func (d *driver) Verified() replica.Verification { return d.verified }

func (d *driver) Doubted(doubt replica.Doubt) {
	d.events = append(d.events, fmt.Sprintf("state is %v", doubt.Trust))
}

func (d *driver) Snapshot() shard.Image { return d.freeze() }
func (d *driver) Fingerprint() uint64   { return d.print }

// Restore forgets what was compared with another state.
func (d *driver) Restore(r io.Reader) error {
	d.past, d.verified = map[uint64]uint64{}, replica.Verification{}
	return d.restore(r)
}

// writerOf is an image's encoder as package snapshot wants it.
func writerOf(image shard.Image) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := image.WriteTo(w)
		return err
	}
}

// count is how often the driver was asked to gather.
func (d *driver) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gathers
}
