package beaver

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"connectrpc.com/connect"
)

// TestCallError tells the network's ends of a call from the caller's.
func TestCallError(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name string
		ctx  context.Context
		err  error
		want Code
	}{
		{"reset", t.Context(), connect.NewError(connect.CodeCanceled, &net.OpError{Op: "read", Err: syscall.ECONNRESET}), CodeUnavailable},
		{"dial timeout", t.Context(), connect.NewError(connect.CodeDeadlineExceeded, os.ErrDeadlineExceeded), CodeUnavailable},
		{"cut message", t.Context(), connect.NewError(connect.CodeInvalidArgument, os.ErrClosed), CodeUnavailable},
		{"not encoded", t.Context(), connect.NewError(connect.CodeInternal, os.ErrInvalid), CodeInternal},
		{"the caller's", over, connect.NewError(connect.CodeCanceled, context.Canceled), CodeCanceled},
	} {
		if got := callError(tc.ctx, tc.err); got.Code != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got.Code, tc.want)
		}
	}
}
