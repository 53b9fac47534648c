package queue

import (
	"cmp"
	"slices"
)

// The model says in obvious code what the machine must do: plain maps, walked whole. It takes commands, not bytes, and
// shares with the machine only the types, the limits and the retry delay (which has a table of its own).

type modelJob struct {
	info       JobInfo
	expiresAt  Millis
	own        Spec  // MaxAttempts, TimeoutMillis, Retry
	bytes      int   // of its item
	released   Token // of the lease for which it gave its unique key up
	endedOrder uint64
}

type modelQueue struct {
	info   QueueInfo
	raised bool // a job got ready in this entry, or the settings changed
}

type modelSession struct {
	high     uint64
	lastUsed Millis
	answers  map[uint64][]Result
	shapes   map[uint64]uint32
}

type model struct {
	now      Millis
	token    Token
	hold     Millis
	ends     uint64
	jobs     map[Pos]*modelJob
	queues   map[QueueID]*modelQueue
	sessions map[SessionID]*modelSession
	keys     map[modelKey]*modelHold
	out      Results
}

// modelShard is the shard of the machines that are compared with the model.
const modelShard = 3

func newModel() *model {
	return &model{
		jobs: map[Pos]*modelJob{}, queues: map[QueueID]*modelQueue{}, sessions: map[SessionID]*modelSession{}, keys: map[modelKey]*modelHold{},
	}
}

func (m *model) apply(index uint64, now Millis, commands []command) {
	m.out = Results{}
	m.now = max(m.now, now)
	if len(commands) > 0 && commands[0].kind == itemHold {
		m.hold = max(m.hold, m.now+Millis(commands[0].leaseMillis))
	}
	m.fire()
	for i := range commands {
		m.command(index, &commands[i])
	}
	for _, id := range m.queueIDs() {
		q := m.queues[id]
		if q.raised && q.info.ByState[StateReady] > 0 && !q.info.Settings.Paused {
			m.event(EventReady, id, 0, 0, 0)
		}
		q.raised = false
	}
}

func (m *model) queueIDs() []QueueID {
	var ids []QueueID
	for id := range m.queues {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *model) event(kind EventKind, q QueueID, w WorkerID, p Pos, t Token) {
	m.out.Events = append(m.out.Events, Event{kind, q, w, p, t})
}

// fire fires all timers due by (time, position, kind).
func (m *model) fire() {
	type due struct {
		at   Millis
		p    Pos
		kind timerKind
	}
	for {
		var first *due
		consider := func(d due) {
			if d.at != 0 && d.at <= m.now && (first == nil ||
				cmp.Or(cmp.Compare(d.at, first.at), cmp.Compare(d.p, first.p), cmp.Compare(d.kind, first.kind)) < 0) {
				first = &d
			}
		}
		for p, j := range m.jobs {
			switch j.info.State {
			case StateScheduled, StateBackoff:
				consider(due{j.info.RunAt, p, timerRun})
				consider(due{j.expiresAt, p, timerExpire})
			case StateReady:
				consider(due{j.expiresAt, p, timerExpire})
			case StateRunning:
				consider(due{j.info.Deadline, p, timerDeadline})
			default:
			}
		}
		if first == nil {
			break
		}
		j := m.jobs[first.p]
		switch first.kind {
		case timerRun:
			m.move(j, StateReady)
			j.info.RunAt = 0
		case timerExpire:
			m.end(j, StateExpired)
		default:
			switch {
			case m.now < m.hold:
				j.info.Deadline = m.hold
			case j.info.Worker == 0:
				m.crash(j)
			default:
				m.event(EventLeaseLost, j.info.Queue, j.info.Worker, j.info.Pos, j.info.Token)
				m.fail(j, 0, &Failure{})
			}
		}
	}
	m.passWindows()
	for id, s := range m.sessions {
		if s.lastUsed+SessionIdleMillis <= m.now {
			delete(m.sessions, id)
		}
	}
}

// move changes a job's state and the counters.
func (m *model) move(j *modelJob, to State) {
	q := m.queues[j.info.Queue]
	if j.info.State != StateUnknown {
		q.info.ByState[j.info.State]--
	}
	q.info.ByState[to]++
	if to == StateReady {
		q.raised = true
	}
	j.info.State = to
}

func (m *model) end(j *modelJob, to State) {
	q := m.queues[j.info.Queue]
	m.move(j, to)
	m.give(j)
	j.info.RunAt, j.info.Deadline, j.info.EndedAt, j.expiresAt = 0, 0, m.now, 0
	switch to {
	case StateCompleted:
		q.info.Completed++
	case StateCancelled:
		q.info.Cancelled++
	case StateExpired:
		q.info.Expired++
	default:
		q.info.Discarded++
	}
	m.ends++
	j.endedOrder = m.ends
	m.trim(q, 2)
}

func (m *model) trim(q *modelQueue, limit int) {
	for range limit {
		var oldest *modelJob
		kept := 0
		for _, j := range m.jobs {
			if j.info.Queue == q.info.Queue && j.info.State.ended() {
				kept++
				if oldest == nil || j.endedOrder < oldest.endedOrder {
					oldest = j
				}
			}
		}
		if kept <= int(q.info.Settings.KeepEnded) {
			return
		}
		q.info.ByState[oldest.info.State]--
		delete(m.jobs, oldest.info.Pos)
	}
}

// wait makes a job wait in a state, unless its time to expire has passed.
func (m *model) wait(j *modelJob, to State, at Millis) {
	j.info.Deadline = 0
	if j.expiresAt != 0 && j.expiresAt <= m.now {
		m.end(j, StateExpired)
		return
	}
	m.move(j, to)
	j.info.RunAt = at
}

func (m *model) die(j *modelJob, why DeadReason) {
	m.queues[j.info.Queue].info.Died++
	m.move(j, StateDead)
	m.give(j)
	j.info.Deadline, j.info.EndedAt, j.info.DeadReason = 0, m.now, why
}

func (m *model) fail(j *modelJob, at Pos, f *Failure) {
	q := m.queues[j.info.Queue]
	q.info.Failed++
	j.info.Failures++
	j.info.ErrorPos = append(slices.Clone(j.info.ErrorPos), at)
	if len(j.info.ErrorPos) > ErrorsKeptMax {
		j.info.ErrorPos = j.info.ErrorPos[1:]
	}
	retry, attempts := q.info.Settings.Retry, q.info.Settings.MaxAttempts
	if j.own.Retry.Kind != RetryDefault {
		retry = j.own.Retry
	}
	if j.own.MaxAttempts != 0 {
		attempts = j.own.MaxAttempts
	}
	delay := f.DelayMillis
	if delay == 0 {
		delay = retry.delay(j.info.Pos, j.info.Failures)
	}
	switch {
	case j.info.CancelRequested:
		m.end(j, StateCancelled)
	case f.Final:
		m.die(j, DeadFinal)
	case j.info.Failures >= attempts || retry.Kind == RetryNever:
		m.die(j, DeadAttempts)
	case delay == 0:
		m.wait(j, StateReady, 0)
	default:
		m.wait(j, StateBackoff, m.now+Millis(delay))
	}
}

func (m *model) crash(j *modelJob) {
	q := m.queues[j.info.Queue]
	q.info.Crashed++
	j.info.Crashes++
	switch {
	case j.info.CancelRequested:
		m.end(j, StateCancelled)
	case j.info.Crashes >= q.info.Settings.PoisonLimit:
		m.die(j, DeadPoison)
	default:
		m.wait(j, StateReady, 0)
	}
}

func (m *model) release(j *modelJob) {
	if j.info.CancelRequested {
		m.end(j, StateCancelled)
		return
	}
	m.wait(j, StateReady, 0)
}

func (m *model) result(code Code, st State, p Pos) {
	m.out.Items = append(m.out.Items, Result{Code: code, State: st, Pos: p})
}

func (m *model) command(index uint64, c *command) {
	here := MakePos(index, len(m.out.Items))
	switch c.kind {
	case itemConfigure:
		m.configure(c)
	case itemEnqueue, itemJob:
		m.enqueue(index, c)
	case itemFetch:
		m.fetch(c)
	case itemAck, itemFail, itemRelease, itemExtend, itemProgress, itemDamaged, itemTakeBack:
		m.toLease(here, c)
	case itemCancel:
		m.cancel(c)
	case itemRetryDead, itemDiscardDead:
		m.toDead(c)
	case itemWorkerLost, itemWorkerGone:
		for _, j := range m.sorted(func(j *modelJob) bool {
			return j.info.State == StateRunning && j.info.Worker == c.worker
		}) {
			if c.kind == itemWorkerLost {
				m.crash(j)
			} else {
				m.release(j)
			}
		}
		m.result(CodeOK, 0, 0)
	case itemHold:
		code := CodeOK
		if len(m.out.Items) > 0 {
			code = CodeMalformed
		}
		m.result(code, 0, 0)
	default:
		m.result(CodeOK, 0, 0)
	}
}

// sorted returns the jobs that fit, by age.
func (m *model) sorted(fits func(*modelJob) bool) []*modelJob {
	var jobs []*modelJob
	for _, j := range m.jobs {
		if fits(j) {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b *modelJob) int { return cmp.Compare(a.info.Pos, b.info.Pos) })
	return jobs
}

func (m *model) configure(c *command) {
	q := m.queues[c.queue]
	if q == nil {
		q = &modelQueue{info: QueueInfo{Queue: c.queue}}
		m.queues[c.queue] = q
	} else if c.version <= q.info.Version {
		m.result(CodeOK, 0, 0)
		return
	}
	q.info.Version, q.info.Settings = c.version, c.settings.WithDefaults()
	q.raised = true
	m.trim(q, endedSlack)
	m.result(CodeOK, 0, 0)
}

func (m *model) fetch(c *command) {
	lo, bytes := len(m.out.Leases), 0
	for range c.max {
		j := m.next(c.queues)
		if j == nil {
			break
		}
		bytes += max(j.bytes, SmallJobBytes)
		if c.bytesMax != 0 && bytes > c.bytesMax && len(m.out.Leases) > lo {
			break
		}
		m.move(j, StateRunning)
		m.token++
		j.info.Token, j.info.Worker, j.info.StartedAt = m.token, c.worker, m.now
		j.info.Attempt++
		m.started(j)
		j.info.ProgressPercent, j.info.ProgressPos = 0, 0
		timeout := m.timeout(j)
		lease := c.leaseMillis
		if lease == 0 {
			lease = LeaseMillisDefault
		}
		switch {
		case c.worker != 0 && timeout != 0:
			j.info.Deadline = m.now + Millis(timeout)
		case c.worker == 0 && timeout != 0:
			j.info.Deadline = m.now + Millis(min(timeout, lease))
		case c.worker == 0:
			j.info.Deadline = m.now + Millis(lease)
		}
		m.out.Leases = append(m.out.Leases, Lease{
			Pos: j.info.Pos, Token: j.info.Token, Queue: j.info.Queue, Attempt: j.info.Attempt,
			Failures: j.info.Failures, Crashes: j.info.Crashes, Priority: j.info.Priority, Deadline: j.info.Deadline,
		})
	}
	m.out.Items = append(m.out.Items, Result{Lo: uint32(lo), Hi: uint32(len(m.out.Leases))})
}

func (m *model) timeout(j *modelJob) int64 {
	switch {
	case j.own.TimeoutMillis < 0:
		return 0
	case j.own.TimeoutMillis > 0:
		return j.own.TimeoutMillis
	}
	return m.queues[j.info.Queue].info.Settings.TimeoutMillis
}

// next is the job to fetch first: by priority, then the order of the queues, then age.
func (m *model) next(queues []QueueID) *modelJob {
	var best *modelJob
	rank := func(j *modelJob) int { return slices.Index(queues, j.info.Queue) }
	for _, j := range m.jobs {
		if j.info.State != StateReady || rank(j) < 0 || m.queues[j.info.Queue].info.Settings.Paused {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(j.info.Priority, best.info.Priority), cmp.Compare(rank(j), rank(best)),
			cmp.Compare(j.info.Pos, best.info.Pos)) < 0 {
			best = j
		}
	}
	return best
}

func (m *model) toLease(here Pos, c *command) {
	j := m.jobs[c.pos]
	if j == nil || j.info.State != StateRunning || j.info.Token != c.token {
		var st State
		if j != nil && !j.plain() {
			st = j.info.State
		}
		code := CodeStale
		if c.kind == itemAck && st == StateCompleted && j.info.Token == c.token {
			code = CodeDuplicate
		}
		m.result(code, st, c.pos)
		return
	}
	switch c.kind {
	case itemAck:
		m.end(j, StateCompleted)
		j.info.ResultPos = here
	case itemFail:
		m.fail(j, here, &c.failure)
	case itemRelease:
		m.release(j)
	case itemTakeBack:
		i := &j.info
		m.unstarted(j)
		if i.Attempt--; i.Attempt == 0 {
			i.Token, i.Worker, i.StartedAt = 0, 0, 0
		}
		i.ProgressPercent, i.ProgressPos = 0, 0
		m.release(j)
	case itemExtend:
		at := m.now + Millis(c.leaseMillis)
		if timeout := m.timeout(j); timeout != 0 {
			at = min(at, max(j.info.StartedAt+Millis(timeout), m.hold, m.now))
		}
		j.info.Deadline = at
		m.out.Items = append(m.out.Items, Result{State: StateRunning, Pos: c.pos, At: at})
		return
	case itemProgress:
		j.info.ProgressPercent, j.info.ProgressPos = c.percent, here
	default:
		m.die(j, DeadDamaged)
	}
	m.result(CodeOK, j.info.State, c.pos)
}

// plain: the machine knows of the job only through its ready set.
func (j *modelJob) plain() bool {
	s := &j.own
	return j.info.State == StateReady && j.info.Attempt == 0 && !(s.ExpiresAt != 0 || s.MaxAttempts != 0 || s.TimeoutMillis != 0 || s.Retry.Kind != RetryDefault || s.UniqueKey != "" || j.bytes > SmallJobBytes)
}

func (m *model) cancel(c *command) {
	j := m.jobs[c.pos]
	switch {
	case j == nil:
		m.result(CodeNoJob, 0, 0)
	case j.info.State.ended():
		m.result(CodeWrongState, j.info.State, c.pos)
	case j.info.State == StateRunning:
		if !j.info.CancelRequested {
			m.event(EventCancel, j.info.Queue, j.info.Worker, c.pos, j.info.Token)
		}
		j.info.CancelRequested = true
		m.result(CodeCancelRequested, StateRunning, c.pos)
	default:
		m.end(j, StateCancelled)
		m.result(CodeOK, StateCancelled, c.pos)
	}
}

func (m *model) toDead(c *command) {
	j := m.jobs[c.pos]
	if j == nil || j.plain() {
		m.result(CodeNoJob, 0, 0)
		return
	}
	if j.info.State != StateDead {
		m.result(CodeWrongState, j.info.State, c.pos)
		return
	}
	if c.kind == itemDiscardDead {
		m.end(j, StateDiscarded)
	} else {
		if j.own.UniqueKey != "" {
			switch code := m.mayTake(j); code {
			case CodeKeyHeld:
				m.out.Items = append(m.out.Items, Result{Code: code, State: StateDead, Shard: modelShard, Pos: m.keys[keyOf(&j.own)].pos})
				return
			case CodeKeyElsewhere:
				m.result(code, StateDead, c.pos)
				return
			default:
				m.take(j, 0)
			}
		}
		m.queues[j.info.Queue].info.Retried++
		j.info.Failures, j.info.Crashes, j.info.DeadReason, j.info.CancelRequested = 0, 0, DeadNot, false
		j.info.EndedAt, j.expiresAt = 0, 0
		m.wait(j, StateReady, 0)
	}
	m.result(CodeOK, j.info.State, c.pos)
}
