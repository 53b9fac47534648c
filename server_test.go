package beaver_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/server"
)

// startServer runs a node on a temporary directory until the test ends, and returns a client of it over TCP.
func startServer(tb testing.TB) *beaver.Client {
	tb.Helper()
	s := openServer(tb, tb.TempDir(), "127.0.0.1:0")
	tb.Cleanup(func() { closeServer(tb, s) })
	return newClient(tb, s)
}

func openServer(tb testing.TB, dir, listen string) *server.Server {
	tb.Helper()
	s, err := server.Open(tb.Context(), server.Options{DataDir: dir, Listen: listen, Logger: testLogger()})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func closeServer(tb testing.TB, s *server.Server) {
	tb.Helper()
	if err := s.Close(context.Background()); err != nil {
		tb.Errorf("close the server: %v", err)
	}
}

func newClient(tb testing.TB, s *server.Server) *beaver.Client {
	tb.Helper()
	c, err := beaver.NewClient(beaver.Config{Addr: s.Addr(), Logger: testLogger()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			tb.Errorf("close the client: %v", err)
		}
	})
	return c
}

// testLogger logs to standard error if BEAVER_TEST_LOG is set.
func testLogger() *slog.Logger {
	if os.Getenv("BEAVER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
