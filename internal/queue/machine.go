package queue

// Machine is the state of one shard. It must be used by one goroutine at a time.
type Machine struct {
	shard   uint16
	applied uint64
	now     Millis
}

// New returns the empty machine of a shard.
func New(shard uint16) *Machine { return &Machine{shard: shard} }

// Apply applies the items of one committed entry at the entry's stamp and writes what came of it into out.
func (m *Machine) Apply(index uint64, now Millis, items [][]byte, out *Results) {}

// Now is the shard's clock: the greatest stamp applied.
func (m *Machine) Now() Millis { return m.now }

// Applied is the index of the last entry applied.
func (m *Machine) Applied() uint64 { return m.applied }

// NextTimer is the time of the earliest timer.
func (m *Machine) NextTimer() (Millis, bool) { return 0, false }

// Fingerprint is the running hash of the state.
func (m *Machine) Fingerprint() uint64 { return 0 }

// CheckInvariants walks the whole state and reports the first thing that does not hold.
func (m *Machine) CheckInvariants() error { return nil }
