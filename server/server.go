package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/metrics"
	"github.com/beaver-raft/beaver/internal/rpc"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
	"github.com/beaver-raft/beaver/internal/wal"
)

// listenNowhere as Options.Listen opens no port.
const listenNowhere = "-"

// Server is a running node. Its methods may be called from any goroutine.
type Server struct {
	opts   Options
	logger *slog.Logger
	front  *rpc.Handler
	engine *engine.Engine
	peers  *peers // nil when the node is alone

	http     *http.Server
	listener net.Listener // nil when listening nowhere
	pipe     *pipeListener

	watch     *engine.Watch
	watched   context.Context // ends the goroutine that ticks it
	unwatch   context.CancelFunc
	gates     []*gate                             // before the listener and the pipe
	transport atomic.Pointer[transport.Transport] // to the peers, once there is one

	serving sync.WaitGroup // the accept loops, and the goroutine that ticks the watch
	closing sync.Once
	closed  chan struct{}
	err     error // of Close; valid once closed is closed
}

// Open starts a node: it listens, recovers what the data directory holds, and returns when the node serves. A data
// directory that another process uses, or that is damaged, is an error that says so. ctx bounds the start only. A node of several
// also waits for the others: founders for each other, for a quorum and until the new catalog names them all, and a node that joins for its
// place.
func Open(ctx context.Context, opts Options) (*Server, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	watch := newWatch(opts.ahead)
	s := &Server{opts: opts, logger: opts.Logger, watch: watch, pipe: newPipeListener(watch), closed: make(chan struct{})}
	s.watched, s.unwatch = context.WithCancel(context.Background())
	figures := metrics.New(opts.Version)
	s.front = rpc.New(rpc.Options{
		Logger: s.logger, Version: opts.Version, DataDir: opts.DataDir, RequestBytesMax: opts.RequestBytesMax, Pprof: opts.Pprof,
		Metrics: figures.Handler(), Recorder: figures.Recorder, Watch: watch,
	})
	figures.SetStreams(s.front.Streams)
	figures.SetPanics(s.front.Panics)
	if err := s.listen(); err != nil {
		s.unwatch()
		return nil, err
	}
	start := time.Now()
	if err := s.openEngine(ctx); err != nil {
		s.stopListening()
		return nil, fmt.Errorf("open %s: %w", opts.DataDir, err)
	}
	figures.SetEngine(s.engine)
	node, zone := s.engine.Node(), ""
	if s.peers != nil {
		zone = s.opts.Peers.Zone
		s.front.ServeCluster(s.peers)
		figures.SetPeers(s.peers.figures)
	}
	figures.SetNode(node, zone)
	s.front.Serve(s.engine)
	s.logger.Info("ready", "addr", s.Addr(), "dir", opts.DataDir, "elapsed", time.Since(start))
	return s, nil
}

// openEngine finds the cluster of a node that has peers, and starts the engine.
func (s *Server) openEngine(ctx context.Context) (err error) {
	options := s.engineOptions()
	if s.opts.Peers.wanted() {
		s.front.SetNotReady("looking for the cluster")
		if s.peers, err = s.openPeers(ctx); err != nil {
			return err
		}
		s.peers.running.Go(s.peers.inquire)
		if err := s.peers.configure(ctx, &options); err != nil {
			return errors.Join(err, s.peers.close())
		}
		var cancel context.CancelFunc
		ctx, cancel = s.peers.whileMember(ctx)
		defer cancel()
	} else {
		if _, _, err := s.decide(nil); err != nil {
			return err
		}
		if options.Shards, err = s.shardsAlone(); err != nil {
			return err
		}
	}
	if s.engine, err = engine.Open(ctx, options); err != nil {
		if s.peers != nil {
			switch {
			case isRemoved(s.peers.removed):
				err = s.peers.removal()
			case isRemoved(s.peers.superseded):
				err = s.peers.unfit
			}
			err = errors.Join(err, s.peers.close())
		}
		return err
	}
	return nil
}

func (s *Server) engineOptions() engine.Options {
	var clock host.Clock // the default
	if s.opts.ahead != nil {
		clock = aheadClock(s.opts.ahead)
	}
	return engine.Options{
		Clock: clock, Watch: s.watch,
		FS: s.opts.fs, Dir: s.opts.DataDir, Shards: s.opts.Shards, Logger: s.logger, Version: s.opts.Version,
		WorkerTTL: s.opts.WorkerTTL, Fatal: s.fatal, Progress: s.progress(),
		ProcessorTime: processorTime, SnapshotBytes: s.opts.SnapshotBytes, WAL: wal.Options{FileBytes: s.opts.LogFileBytes},
	}
}

// progress returns what tells /readyz how far the recovery is: the share of all shards' entries that is replayed.
func (s *Server) progress() func(host.Progress) {
	var mu sync.Mutex
	reports := make(map[uint64]host.Progress)
	return func(p host.Progress) {
		mu.Lock()
		defer mu.Unlock()
		reports[uint64(p.Shard)] = p
		var applied, last uint64
		for _, r := range reports {
			applied, last = applied+min(r.Applied, r.Last), last+r.Last
		}
		if last > 0 {
			s.front.SetNotReady(fmt.Sprintf("recovering %d%%", 100*applied/last))
		}
	}
}

// Client returns a client of this node, over a pipe in memory. Close it before the server.
func (s *Server) Client() (*beaver.Client, error) {
	return beaver.NewClient(beaver.Config{
		Addr: "http://in-process", OnlyAddr: true, Logger: s.logger, HTTPClient: &http.Client{Transport: s.pipe.transport()},
	})
}

// fatal ends the process: nothing may be acknowledged any more.
func (s *Server) fatal(err error) {
	_, lost := errors.AsType[*shard.LostLogError](err)
	if _, unfit := errors.AsType[*founding.StartError](err); !lost && !unfit {
		err = fmt.Errorf("the log failed, and the node ends so that nothing is acknowledged that is not stored: %w", err)
	}
	if s.opts.Fatal != nil {
		s.opts.Fatal(err)
		return
	}
	s.logger.Error("the node must not go on", "err", err)
	os.Exit(1)
}

// listen opens the port and the pipe and starts to answer.
func (s *Server) listen() error {
	s.http = s.front.Server()
	s.http.ErrorLog = slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug)
	if s.opts.Listen != listenNowhere {
		l, err := net.Listen("tcp", s.opts.Listen)
		if err != nil {
			advice := "choose an address of this machine and a port from 1 to 65535"
			if errors.Is(err, syscall.EADDRINUSE) {
				advice = "is another node running here? choose another address"
			}
			return fmt.Errorf("listen on %s: %w; %s", s.opts.Listen, err, advice)
		}
		g := newGate(l, s.opts.ConnectionsMax, s.watch)
		s.listener = g
		s.serve(g)
		if name, _, err := net.SplitHostPort(s.Addr()); err == nil && !loopback(name) {
			s.logger.Warn("clients are not asked who they are, and nothing they say is encrypted: whoever reaches this address may read and change all jobs; "+
				"listen on 127.0.0.1, or let a firewall, a private network or a proxy that checks who calls stand before it", "addr", s.Addr())
		}
	}
	s.serve(newGate(s.pipe, 0, s.watch))
	s.serving.Go(s.keepWatch)
	return nil
}

// serve answers what comes by a gate. REQUIRES: keepWatch does not run yet.
func (s *Server) serve(l *gate) {
	s.gates = append(s.gates, l)
	s.serving.Go(func() {
		if err := s.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("listener failed", "addr", l.Addr().String(), "err", err)
		}
	})
}

// Addr is the address the node listens on, with the port it really has; empty when it listens nowhere.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Removed is closed when the node was taken out of its cluster: there is nothing left for it to do. It never is on a node
// that is alone.
func (s *Server) Removed() <-chan struct{} {
	if s.peers == nil {
		return nil
	}
	return s.peers.removed
}

// Wait returns when the node is closed, with what Close returned.
func (s *Server) Wait() error {
	<-s.closed
	return s.err
}

// Close stops the node: it is not ready any more, hands out nothing, finishes what clients asked for, ends their streams,
// hands the shards that it leads over to other nodes and closes the engine. When ctx is done first, what is under way is cut off; nothing acknowledged is lost by that.
// Further calls wait for the first one and return the same.
func (s *Server) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.err = s.close(ctx)
		close(s.closed)
	})
	<-s.closed
	return s.err
}

func (s *Server) close(ctx context.Context) error {
	s.logger.Info("stopping")
	start := time.Now()
	if err := s.front.Drain(ctx); err != nil {
		s.logger.Warn("clients were cut off", "err", err)
	}
	if s.peers != nil {
		s.peers.halt() // nothing is begun any more that the others would have to finish
	}
	err := s.engine.Close(ctx)
	if s.peers != nil {
		err = errors.Join(err, s.peers.close())
	}
	s.stopListening()
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s.logger.Info("stopped", "elapsed", time.Since(start))
	return nil
}

// stopListening closes the listeners and all connections. Calls are over: Drain has seen to that, or gave up on them.
func (s *Server) stopListening() {
	s.unwatch()
	_ = s.http.Close()
	s.serving.Wait()
}
