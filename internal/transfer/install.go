package transfer

import (
	"errors"
	"fmt"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/wal"
)

// ErrNotNeeded: the follower's log has come as far as the snapshot by other means. What was staged is gone.
var ErrNotNeeded = errors.New("the log has caught up with the snapshot by other means")

// complete makes what is staged whole and durable, and checks it. What is wrong is refused and thrown away.
func (r *Receiver) complete(c *chunk) (Ack, error) {
	if err := r.file.Sync(); err != nil {
		return Ack{}, fmt.Errorf("sync the hot state: %w", err)
	}
	err := r.file.Close()
	r.file = nil
	if err != nil {
		return Ack{}, fmt.Errorf("close the hot state: %w", err)
	}
	if r.segments, err = r.in.Seal(); err != nil {
		r.through = max(r.stage.held, r.in.Last())
		return Ack{}, errors.Join(err, r.dropHot())
	}
	state, wrong, err := r.verify(c)
	if err != nil {
		return Ack{}, err
	}
	if wrong != "" {
		a := r.refused(c, wrong)
		return a, r.drop()
	}
	if count, first := r.cfg.Log.Missing(r.cfg.Shard, state.Live, r.stage.held); count > 0 {
		return r.restart(c, count, first)
	}
	if count, first := r.in.Missing(state.Live, r.stage.held); count > 0 {
		a := r.refused(c, fmt.Sprintf("entry %d and %d others are live and were not sent", first, count-1))
		return a, r.drop()
	}
	if err := syncDir(r.cfg.FS, r.cfg.Dir); err != nil {
		return Ack{}, err
	}
	r.phase = phaseReady
	return r.ack(c, StatusReady), nil
}

// verify looks whether the hot state is what was offered, and says what is wrong with it.
func (r *Receiver) verify(c *chunk) (state State, wrong string, err error) {
	loaded, err := snapshot.OpenAt(r.cfg.FS, r.cfg.Dir, c.index)
	if _, damaged := errors.AsType[*snapshot.Damage](err); damaged {
		return state, err.Error(), nil
	}
	if _, newer := errors.AsType[*snapshot.VersionError](err); newer {
		return state, err.Error(), nil
	}
	if err != nil {
		return state, "", err
	}
	defer func() { _ = loaded.Close() }() // only read from
	m := loaded.Meta
	if wal.ShardID(m.Shard) != c.shard || m.Term != r.offer.snapshotTerm || m.Fingerprint != r.offer.fingerprint ||
		m.MachineVersion != r.offer.machineVersion {
		return state, "the snapshot is not the one that was offered", nil
	}
	state, err = r.cfg.Verify(m, loaded.Content)
	switch {
	case err != nil:
		return state, "the hot state cannot be restored: " + err.Error(), nil
	case state.Fingerprint != m.Fingerprint:
		return state, fmt.Sprintf("the state has fingerprint %016x, the snapshot was taken at %016x", state.Fingerprint, m.Fingerprint), nil
	case !state.Live.IsEmpty() && state.Live.Maximum() > m.Index:
		return state, fmt.Sprintf("the state refers to entry %d behind it", state.Live.Maximum()), nil
	}
	return state, "", nil
}

// restart asks for all live entries, since the log lacks some that it should hold: a segment of it was lost.
func (r *Receiver) restart(c *chunk, count, first uint64) (Ack, error) {
	bound, offer := r.bound, r.offer
	s := stage{asOf: c.index, next: r.cfg.Log.NextReceived(r.cfg.Shard), replace: true}
	if err := r.begin(s); err != nil {
		return Ack{}, err
	}
	r.bound, r.offer = bound, offer
	r.stats.Restarts++
	a := r.outOfOrder(c)
	a.Text = fmt.Sprintf("entry %d and %d others are live and missing here: send all", first, count-1)
	return a, nil
}

// Install decides to install what Accept called ready, moves it into place, and tells the log. The installation is durable
// when the log is flushed up to the position; then call Installed. Errors: ErrNotNeeded; wal.ErrDiskFull, and it may be tried
// again; wal.ErrConflict, when the snapshot contradicts what is committed here, which is a reason to stop. Any other may be
// a failed sync, and is final. REQUIRES: Ready.
func (r *Receiver) Install() (snapshot.Meta, wal.Position, error) {
	invariant.Check(r.phase == phaseReady, "shard %d: nothing is ready to be installed", r.cfg.Shard)
	log, d := r.cfg.Log, decision{index: r.bound.index, term: r.offer.snapshotTerm, held: r.stage.held, segments: r.segments}
	if _, needed := r.needs(d.index); !needed {
		return snapshot.Meta{}, 0, errors.Join(ErrNotNeeded, r.Discard())
	}
	term, err := log.Term(r.cfg.Shard, d.index)
	if err == nil && term != d.term && log.State(r.cfg.Shard).HardState.Commit >= d.index {
		return snapshot.Meta{}, 0, fmt.Errorf("shard %d: snapshot %d has term %d, the entry here %d: %w",
			r.cfg.Shard, d.index, d.term, term, wal.ErrConflict)
	}
	if err := full(writeFile(r.cfg.FS, r.cfg.Dir, installName, d.encode(r.cfg.Shard))); err != nil {
		return snapshot.Meta{}, 0, err
	}
	r.phase = phaseDecided
	return place(r.cfg, d)
}

// place brings about what was decided. It can be done again.
func place(cfg ReceiverConfig, d decision) (m snapshot.Meta, end wal.Position, err error) {
	if err := snapshot.Adopt(cfg.FS, cfg.Dir, cfg.SnapshotDir, d.index); err != nil {
		return m, 0, err
	}
	loaded, err := snapshot.OpenAt(cfg.FS, cfg.SnapshotDir, d.index)
	if err != nil {
		return m, 0, err
	}
	if err := loaded.Close(); err != nil {
		return m, 0, fmt.Errorf("close snapshot: %w", err)
	}
	end, err = cfg.Log.Install(d.installation(cfg))
	return loaded.Meta, end, err
}

func (d *decision) installation(cfg ReceiverConfig) wal.Installation {
	return wal.Installation{
		Shard: cfg.Shard, Index: d.index, Term: d.term, Held: d.held, Dir: cfg.Dir, Segments: d.segments,
	}
}

// Installed ends the installation, and returns what to tell the sender. REQUIRES: the log was flushed up to what Install
// returned.
func (r *Receiver) Installed() (Ack, error) {
	invariant.Check(r.phase == phaseDecided, "shard %d: nothing was installed", r.cfg.Shard)
	a := Ack{Status: StatusInstalled, Held: r.bound.index, Through: r.bound.index, Hot: r.hot, header: r.bound}
	if err := end(r.cfg); err != nil {
		return Ack{}, err
	}
	r.phase, r.in = phaseOpen, nil
	r.stats.Installed++
	return a, r.drop()
}

// Finish installs what Accept called ready: Install, a flush of the log up to the position, and Installed. It returns what to
// tell the sender. ErrNotNeeded: nothing was installed, and the shard goes on as it was. Errors are those of Install.
func (r *Receiver) Finish(flush func(wal.Position) error) (snapshot.Meta, Ack, error) {
	m, position, err := r.Install()
	if err != nil {
		return m, Ack{}, err
	}
	if err := flush(position); err != nil {
		return m, Ack{}, err
	}
	a, err := r.Installed()
	return m, a, err
}

// end makes durable that nothing is to be installed any more.
func end(cfg ReceiverConfig) error {
	if err := cfg.FS.Remove(cfg.Dir + "/" + installName); err != nil {
		return fmt.Errorf("end the installation: %w", err)
	}
	return syncDir(cfg.FS, cfg.Dir)
}
