package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServerProfile: what a server answers is the profile, and a server that has none is an error that names the file.
func TestServerProfile(t *testing.T) {
	var asked string
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "samples")
	}))
	defer server.Close()
	b := &benchRun{benchOptions: benchOptions{seconds: 7}}
	p := &serverProcess{addr: server.Listener.Addr().String()}
	name := filepath.Join(t.TempDir(), "a.pprof")
	write := func() error {
		return writeProfile(name, func(out io.Writer) error { return b.profileServer(t.Context(), p, out) })
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "samples" || asked != "/debug/pprof/profile?seconds=7" {
		t.Errorf("asked for %q, wrote %q, %v", asked, got, err)
	}
	status = http.StatusNotFound
	if err := write(); err == nil || !strings.Contains(err.Error(), "a.pprof: the server answered 404") {
		t.Errorf("got %v", err)
	}
}
