package replica

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"strings"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/shard"
)

// toy is a driver whose machine is the list of the words it applied. It tells what happens to it.
type toy struct {
	out   *strings.Builder
	label string

	words []string
	stamp int64
	live  *roaring64.Bitmap // every entry with a word

	queue  []string
	flying map[uint64][]string
	seq    uint64
	wakeup int64
	leads  bool
	mute   bool

	// A word that begins with ! is a fingerprint: "!index:fingerprint".
	past     map[uint64]uint64
	verified Verification
}

func newToy(label string, out *strings.Builder) *toy {
	return &toy{out: out, label: label, live: roaring64.New(), flying: map[uint64][]string{}, past: map[uint64]uint64{}}
}

func (d *toy) say(format string, args ...any) {
	if !d.mute {
		fmt.Fprintf(d.out, "%s: %s\n", d.label, fmt.Sprintf(format, args...))
	}
}

func (d *toy) Gather(b *shard.BatchBuilder, now int64) uint64 {
	var words []string
	for _, word := range d.queue {
		var items shard.Items
		items.Commit(append(items.Buf(), word...))
		if !b.Fits(&items) || len(words) == 2 {
			break
		}
		b.Add(&items)
		words = append(words, word)
	}
	d.queue = d.queue[len(words):]
	if len(words) > 0 {
		d.seq++
		d.say("batch %d of %v, stamp %d", d.seq, short(words), now)
		d.flying[d.seq] = words
	}
	return d.seq
}

// short cuts long words.
func short(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, w[:min(len(w), 8)])
	}
	return out
}

func (d *toy) Apply(index uint64, h shard.Header, items [][]byte) {
	d.stamp = max(d.stamp, h.Stamp)
	var words []string
	for _, item := range items {
		words = append(words, string(item))
	}
	d.words = append(d.words, words...)
	d.live.Add(index)
	answered := ""
	if _, ok := d.flying[h.Sequence]; ok && fmt.Sprint(h.Proposer) == d.label {
		answered = ", answered"
		delete(d.flying, h.Sequence)
	}
	d.say("applied %v at %d, stamp %d%s", short(words), index, h.Stamp, answered)
	d.past[index] = d.Fingerprint()
	for _, word := range words {
		var at, logged uint64
		if n, _ := fmt.Sscanf(word, "!%d:%x", &at, &logged); n == 2 && d.past[at] != 0 {
			d.verified = Verification{at, logged, d.past[at]}
		}
	}
}

func (d *toy) Verified() Verification { return d.verified }

func (d *toy) Doubted(doubt Doubt) {
	if doubt.Trust == Trusted && d.mute {
		return
	}
	mute := d.mute
	d.mute = false
	d.say("state is %v, differed at %d, judged by others: %v", doubt.Trust, doubt.Index, doubt.Judged)
	d.mute = mute
}

func (d *toy) Dropped(seq uint64, unknown bool) {
	what := "nothing happened"
	if unknown {
		what = "outcome unknown"
	}
	d.say("dropped batch %d: %s", seq, what)
	delete(d.flying, seq)
}

func (d *toy) Settled()      {}
func (d *toy) Wakeup() int64 { return d.wakeup }
func (d *toy) Stamp() int64  { return d.stamp }

func (d *toy) Leadership(leading bool, term uint64) {
	d.leads = leading
	d.say("leading %v in term %d", leading, term)
	if !leading {
		d.queue = nil
	}
}

func (d *toy) Fingerprint() uint64 {
	f := fnv.New64a()
	_, _ = io.WriteString(f, strings.Join(d.words, "\n"))
	return f.Sum64()
}

func (d *toy) Snapshot() shard.Image {
	return toyImage{text: fmt.Sprintf("%d\n%s", d.stamp, strings.Join(d.words, "\n")), print: d.Fingerprint(), live: d.live.Clone()}
}

func (d *toy) Restore(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	live, text, _ := bytes.Cut(text, []byte("\n"))
	d.live = roaring64.New()
	if _, err := d.live.FromBase64(string(live)); err != nil {
		return err
	}
	stamp, rest, _ := strings.Cut(string(text), "\n")
	d.words = nil
	if rest != "" {
		d.words = strings.Split(rest, "\n")
	}
	_, err = fmt.Sscan(stamp, &d.stamp)
	return err
}

type toyImage struct {
	text  string
	print uint64
	live  *roaring64.Bitmap
}

func (i toyImage) WriteTo(w io.Writer) (int64, error) {
	live, err := i.live.ToBase64()
	if err != nil {
		return 0, err
	}
	n, err := io.WriteString(w, live+"\n"+i.text)
	return int64(n), err
}
func (i toyImage) Live() *roaring64.Bitmap { return i.live }
func (i toyImage) Fingerprint() uint64     { return i.print }
