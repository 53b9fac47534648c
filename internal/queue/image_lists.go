package queue

func (img *Image) writeSessions(w *imageWriter) {
	w.begin(sectionSessions, nil)
	var last uint64
	img.sessions.Scan(func(serial uint64, s session) bool {
		w.v(serial - last)
		last = serial
		w.buf = append(w.buf, s.id[:]...)
		w.v(s.high)
		w.v(uint64(s.lastUsed))
		w.v(uint64(s.timerAt))
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
	w.begin(sectionAnswers, nil)
	last = 0
	img.answers.Scan(func(key uint64, a answer) bool {
		w.v(key - last)
		last = key
		w.v(a.seq)
		w.v(uint64(a.first))
		w.v(uint64(a.jobs))
		w.v(uint64(a.shape))
		w.buf = appendBytes(w.buf, a.refused)
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
	w.begin(sectionHolders, nil)
	last = 0
	img.answers.Scan(func(key uint64, a answer) bool {
		if a.holders == "" {
			return true
		}
		w.v(key - last)
		last = key
		w.buf = appendBytes(w.buf, a.holders)
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
}

func (img *Image) writeClaims(w *imageWriter) {
	w.begin(sectionDeduplicated, nil)
	img.queues.Scan(func(id QueueID, q *queueState) bool {
		if n := q.totals.deduplicated; n > 0 {
			w.v(uint64(id))
			w.v(n)
			w.full()
		}
		return w.err == nil
	})
	w.end()
	w.begin(sectionClaims, nil)
	var last Pos
	img.claims.Scan(func(p Pos, c claim) bool {
		w.v(uint64(p - last))
		last = p
		w.v(uint64(c.queue))
		w.buf = append(append(w.buf, c.key[:]...), byte(c.flags))
		w.v(uint64(c.until))
		w.v(uint64(c.released))
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
}
