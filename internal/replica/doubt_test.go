package replica

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// doubt changes a state, or has it verified.
func (m *member) doubt(t *testing.T, d *datadriven.TestData) {
	if d.Cmd == "skew" {
		var word string
		d.ScanArgs(t, "word", &word)
		m.driver.words = append(m.driver.words, word)
		return
	}
	index := m.rep.Applied()
	m.driver.past[index] = m.driver.Fingerprint()
	m.driver.queue = append(m.driver.queue, fmt.Sprintf("!%d:%x", index, m.driver.Fingerprint()))
}
