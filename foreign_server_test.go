package beaver_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver"
)

// TestForeignServer: who reaches another program by mistake is told so, and not what HTTP/2 thinks of its bytes.
func TestForeignServer(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	c, err := beaver.NewClient(beaver.Config{Addr: s.URL, RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, unary := c.Queues(t.Context())
	_, stream := c.Enqueue(t.Context(), beaver.Job{Queue: "q"})
	for _, err := range []error{unary, stream} {
		if err == nil || !strings.Contains(err.Error(), "does not speak HTTP/2") {
			t.Errorf("got %v", err)
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
