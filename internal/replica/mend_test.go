package replica

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// letter is mail under way.
type letter struct {
	from shard.ReplicaID
	mail Mail
}

// deliverMail hands out what is asked and answered about damaged entries.
func (g *group) deliverMail() (moved bool) {
	mail := g.mail
	g.mail = nil
	for _, l := range mail {
		m := g.members[l.mail.To.Node()]
		if g.cut[l.from.Node()] || g.cut[m.node] || m.rep == nil || m.id != l.mail.To {
			continue
		}
		moved = true
		if answer := m.rep.StepMend(m.instant(), l.from.Node(), l.mail.Data); answer != nil {
			m.driver.say("answers %s: %s", l.from, transfer.Describe(answer))
			g.mail = append(g.mail, letter{m.id, Mail{l.from, answer}})
		}
	}
	return moved
}

// flip damages every place on the disk that holds a text.
func (m *member) flip(t *testing.T, d *datadriven.TestData) error {
	var text string
	d.ScanArgs(t, "text", &text)
	places := 0
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := m.disk.List(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			name = path.Join(dir, name)
			info, err := m.disk.Stat(name)
			if err == nil && info.Dir {
				err = walk(name)
			} else if err == nil {
				err = m.flipIn(name, info.Size, text, &places)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := walk("log")
	m.driver.say("%d bits are flipped", places)
	return err
}

func (m *member) flipIn(name string, size int64, text string, places *int) error {
	f, err := m.disk.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	for at := 0; ; at++ {
		found := bytes.Index(b[at:], []byte(text))
		if found < 0 {
			return nil
		}
		at += found
		*places++
		if err := m.disk.FlipBit(name, int64(at), 3); err != nil {
			return err
		}
	}
}

// payload reads the first item of an entry as a dispatch does.
func (m *member) payload(t *testing.T, d *datadriven.TestData) error {
	var index uint64
	d.ScanArgs(t, "index", &index)
	_, item, err := m.rep.Payload(index, 0)
	if damage, ok := errors.AsType[*wal.CorruptError](err); ok {
		m.driver.say("payload of %d is damaged, others are asked: %v", index, damage.Mending != nil)
		return nil
	}
	if err == nil {
		m.driver.say("payload of %d is %s", index, item)
	}
	return err
}

// maintain does the log's background work.
func (m *member) maintain() error {
	for more := true; more; {
		var err error
		if more, err = m.log.Maintain(); err != nil {
			return err
		}
	}
	fmt.Fprintf(&m.g.out, "%d: %d entries mended, %d damaged\n", m.node, m.log.Stats().EntriesMended, m.log.Stats().EntriesDamaged)
	return nil
}
