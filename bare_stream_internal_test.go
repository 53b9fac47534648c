package beaver

import (
	"errors"
	"io"
	"testing"

	"connectrpc.com/connect"
)

// TestEndOf: the end of a bare stream is what it would be over HTTP/2: io.EOF, or an error that came over the wire.
func TestEndOf(t *testing.T) {
	if err := endOf([]byte("{}")); !errors.Is(err, io.EOF) {
		t.Errorf("a good end: %v", err)
	}
	err := endOf([]byte(`{"error":{"code":"not_found","message":"gone","details":[{"type":"beaver.v1.ErrorInfo","value":"CgtXT1JLRVJfTE9TVA"}]}}`))
	if !connect.IsWireError(err) {
		t.Errorf("%v did not come over the wire", err)
	}
	if e := asError(err); e == nil || e.Code != CodeNotFound || e.Reason != reasonWorkerLost || e.Message != "gone" {
		t.Errorf("the error is %+v", e)
	}
	if e := asError(endOf([]byte(`{"error":{"code":"brand_new","message":"m"}}`))); e == nil || e.Code != CodeUnknown {
		t.Errorf("a code of a newer server: %+v", e)
	}
	if e := asError(endOf([]byte("nonsense"))); e == nil || e.Code != CodeInternal {
		t.Errorf("nonsense: %+v", e)
	}
}

func FuzzEndOf(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"error":{"code":"not_found","message":"gone","details":[{"type":"beaver.v1.ErrorInfo","value":"CgtXT1JLRVJfTE9TVA"}]}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if endOf(message) == nil {
			t.Error("an end is no error")
		}
	})
}
