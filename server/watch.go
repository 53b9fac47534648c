package server

import (
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// lastWords is for how long connections of an earlier era stay open, so that clients who still wait get what answers there are.
const lastWords = 250 * time.Millisecond

// newWatch makes the node's watch. Tests let its clocks jump.
func newWatch(ahead func() time.Duration) *engine.Watch {
	if ahead == nil {
		return engine.NewWatch(nil)
	}
	start := time.Now()
	return engine.NewWatch(func(t time.Time) engine.Reading {
		return engine.Reading{Even: t.Sub(start), Wall: time.Duration(t.UnixNano()) + ahead()}
	})
}

// aheadClock is the engine's clock when the clocks jump.
type aheadClock func() time.Duration

func (ahead aheadClock) NowMillis() int64 { return time.Now().Add(ahead()).UnixMilli() }

// keepWatch is the goroutine that ticks the watch. When the node stood still, all requests that may have waited meanwhile are refused
// already, whoever looks at one; here their connections are closed.
func (s *Server) keepWatch() {
	ticker := time.NewTicker(engine.StillTick)
	defer ticker.Stop()
	var closes <-chan time.Time
	for {
		select {
		case <-ticker.C:
			s.watch.Tick()
		case <-s.watch.Changed():
			gone := s.watch.Gone()
			s.logger.Warn("the node stood still, or its clock was set forward: requests that may have waited meanwhile are refused, and their connections closed",
				slog.Duration("by_wall_clock", gone.Wall.Round(time.Millisecond)), slog.Duration("by_even_clock", gone.Even.Round(time.Millisecond)))
			for _, g := range s.gates {
				g.wake()
			}
			s.cutEarlierPeers()
			closes = time.After(lastWords)
		case <-closes:
			for _, g := range s.gates {
				g.closeEarlier()
			}
			closes = nil
		case <-s.watched.Done():
			return
		}
	}
}

// cutEarlierPeers closes the connections by which peers forwarded requests in an earlier era.
func (s *Server) cutEarlierPeers() {
	if t := s.transport.Load(); t != nil {
		t.CutEarlier()
	}
}
