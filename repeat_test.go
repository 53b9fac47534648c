package beaver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// loseAnswer carries calls of one method out, but loses its first answer.
type loseAnswer struct {
	*http.Client
	method string
	lost   atomic.Bool
}

func (l *loseAnswer) Do(r *http.Request) (*http.Response, error) {
	res, err := l.Client.Do(r)
	if err == nil && strings.HasSuffix(r.URL.Path, l.method) && l.lost.CompareAndSwap(false, true) {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}
	return res, err
}

// losingClient returns a client that loses the first answer of a method, and a job that it has leased.
func losingClient(t *testing.T, method string) (*beaver.Client, *beaver.LeasedJob) {
	t.Helper()
	s := openServer(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(func() { closeServer(t, s) })
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	c, err := beaver.NewClient(beaver.Config{
		Addr: s.Addr(), HTTPClient: &loseAnswer{Client: &http.Client{Transport: &http.Transport{Protocols: &protocols}}, method: method},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	jobs, err := c.Fetch(t.Context(), beaver.FetchRequest{Queues: []string{"q"}, Wait: time.Second})
	if err != nil || len(jobs) != 1 {
		t.Fatal(jobs, err)
	}
	return c, jobs[0]
}

// TestAckRepeated: an Ack whose answer was lost is repeated, and is what it was the first time.
func TestAckRepeated(t *testing.T) {
	c, job := losingClient(t, "/Ack")
	if err := c.Ack(t.Context(), job.Lease, "", nil); err != nil {
		t.Error(err)
	}
	waitJob(t, c, job.ID, beaver.StateCompleted)
}

// TestChangesRepeated: a change whose answer was lost is repeated, and the refusal of the repeat says neither that it was done
// nor that it was not.
func TestChangesRepeated(t *testing.T) {
	for method, change := range map[string]func(*beaver.Client, *beaver.LeasedJob) error{
		"/Fail": func(c *beaver.Client, job *beaver.LeasedJob) error {
			_, err := c.Fail(t.Context(), job.Lease, beaver.Failure{Message: "no"})
			return err
		},
		"/Release": func(c *beaver.Client, job *beaver.LeasedJob) error { return c.Release(t.Context(), job.Lease) },
	} {
		t.Run(method[1:], func(t *testing.T) {
			c, job := losingClient(t, method)
			if err := change(c, job); !errors.Is(err, beaver.ErrOutcomeUnknown) || errors.Is(err, beaver.ErrLeaseLost) {
				t.Errorf("got %v, want an unknown outcome", err)
			}
			if err := change(c, job); !errors.Is(err, beaver.ErrLeaseLost) {
				t.Errorf("once more: %v, want the lease lost", err)
			}
		})
	}
}
