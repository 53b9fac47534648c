package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// rpcPrefix is the first part of every procedure's path.
const rpcPrefix = "/beaver.v1."

// Server returns an http.Server for the handler, for HTTP/1.1 and HTTP/2 without TLS on one port.
func (h *Handler) Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ConnContext:       withEra,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streamsMax,
			MaxReceiveBufferPerConnection: connWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReadFrameSize:              readFrameBytes,
			SendPingTimeout:               pingInterval,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              writeTimeout,
		},
	}
}

// accepted is a connection that knows in which era it was accepted.
type accepted interface{ Era() engine.Era }

// withEra tells the requests of a connection in which era it was accepted, if it knows. To look here would be too late: the node may have
// stood still since.
func withEra(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(accepted); ok {
		return engine.WithEra(ctx, c.Era())
	}
	return ctx
}

// addPages registers what is not a procedure.
func (h *Handler) addPages() {
	for path, page := range map[string]http.HandlerFunc{
		"/livez": h.livez, "/readyz": h.readyz, "/healthz": h.readyz, "/{$}": h.about,
	} {
		h.pages.HandleFunc("GET "+path, page) // and HEAD
		h.pages.HandleFunc(path, h.readOnly)
	}
	h.pages.HandleFunc("/", h.unknown)
	if h.opts.Metrics != nil {
		h.pages.Handle("/metrics", h.opts.Metrics)
	}
	if h.opts.Pprof {
		h.pages.HandleFunc("/debug/pprof/", pprof.Index)
		h.pages.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		h.pages.HandleFunc("/debug/pprof/profile", pprof.Profile)
		h.pages.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		h.pages.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		// What guard does not see: reading a call's message, writing its answer, and the pages.
		if value := recover(); value != nil {
			_ = h.panicked(r.URL.Path, value) // there is no call to answer
			panic(http.ErrAbortHandler)       // the answer may have begun: cut it off, and let nobody take it for whole
		}
	}()
	if !strings.HasPrefix(r.URL.Path, rpcPrefix) {
		h.pages.ServeHTTP(w, r)
		return
	}
	procedure, ok := h.rpc[r.URL.Path]
	if !ok {
		h.unknownProcedure(w, r)
		return
	}
	if serve := h.bare[r.URL.Path]; serve != nil && wantsUpgrade(r) {
		h.serveUpgraded(w, r, serve)
		return
	}
	if !h.acceptMethod(w, r) || h.bare[r.URL.Path] != nil && !h.acceptStream(w, r) || !h.acceptBody(w, r) {
		return
	}
	procedure.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), controllerKey{}, http.NewResponseController(w))))
}

// controllerKey is where a stream finds the interrupter with which it stops its own reads and writes.
type controllerKey struct{}

// interrupter is an http.ResponseController, or an upgraded stream.
type interrupter interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// acceptBody makes requests of plain curl understood, and refuses what certainly is too large or of a wrong type with an
// error that says so. It reports whether to go on.
func (h *Handler) acceptBody(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		return true
	}
	kind, parameters, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	switch {
	case kind == "" || kind == "application/x-www-form-urlencoded":
		if !jsonBody(r) {
			h.refuse(w, r, http.StatusUnsupportedMediaType, &engine.Error{
				Code: engine.CodeInvalidArgument, Reason: reasonMalformed,
				Message: "the body is not a JSON object: send one, or say with a content-type header what it is",
			})
			return false
		}
		r.Header.Set("Content-Type", "application/json")
	case kind == "application/json":
		if _, charset, ok := strings.Cut(strings.ToLower(parameters), "charset="); ok && strings.Trim(charset, `" `) != "utf-8" {
			h.refuse(w, r, http.StatusUnsupportedMediaType, &engine.Error{
				Code: engine.CodeInvalidArgument, Reason: reasonMalformed,
				Message: fmt.Sprintf("the charset %s is not understood: JSON is UTF-8", clip(charset)),
			})
			return false
		}
		r.Header.Set("Content-Type", kind)
	case !unaryTypes[kind] && h.bare[r.URL.Path] == nil:
		h.refuse(w, r, http.StatusUnsupportedMediaType, &engine.Error{
			Code: engine.CodeInvalidArgument, Reason: reasonMalformed,
			Message: fmt.Sprintf("content type %q is not understood: send application/json or application/proto", clip(kind)),
		})
		return false
	}
	if most := int64(h.opts.RequestBytesMax); r.ContentLength > most && kind != "application/grpc" {
		h.refuse(w, r, http.StatusRequestEntityTooLarge, &engine.Error{
			Code: engine.CodeResourceExhausted, Reason: reasonTooLarge,
			Message: fmt.Sprintf("the message has %d bytes, at most %d are taken: send several smaller ones", r.ContentLength, most),
		})
		return false
	}
	return true
}

// The content types of calls and of streams.
var (
	unaryTypes = map[string]bool{
		"application/json": true, "application/proto": true,
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+json": true,
		"application/grpc-web": true, "application/grpc-web+proto": true, "application/grpc-web+json": true,
	}
	streamTypes = map[string]bool{
		"application/connect+json": true, "application/connect+proto": true,
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+json": true,
		"application/grpc-web": true, "application/grpc-web+proto": true, "application/grpc-web+json": true,
	}
)

// jsonBody looks at the first byte of the body that is not white space, and leaves the body whole. An empty body is an
// empty JSON object.
func jsonBody(r *http.Request) bool {
	body := bufio.NewReaderSize(r.Body, probeBytesMax)
	r.Body = &peekedBody{Reader: body, Closer: r.Body}
	for n := 1; n <= probeBytesMax; n++ {
		head, err := body.Peek(n)
		if err != nil {
			return errors.Is(err, io.EOF) && len(bytes.TrimSpace(head)) == 0
		}
		switch head[n-1] {
		case ' ', '\t', '\r', '\n':
		default:
			return head[n-1] == '{'
		}
	}
	return false
}

type peekedBody struct {
	io.Reader
	io.Closer
}

// livez says that the process answers.
func (h *Handler) livez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"live": true})
}

// Ready tells whether calls are served, and if not, why.
func (h *Handler) Ready() (ready bool, reason string) {
	if h.stop.Err() != nil {
		return false, "stopping"
	}
	e := h.engine.Load()
	if e == nil {
		return false, *h.reason.Load()
	}
	return (*e).Ready()
}

// readyz says whether calls are served; ?verbose adds what it rests on.
func (h *Handler) readyz(w http.ResponseWriter, r *http.Request) {
	ready, reason := h.Ready()
	answer := map[string]any{"ready": ready}
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
		answer["reason"] = reason
	}
	if r.URL.Query().Has("verbose") {
		enqueue, work := h.Streams()
		answer["version"] = h.opts.Version
		answer["engine"] = h.engine.Load() != nil
		answer["stopping"] = h.stop.Err() != nil
		answer["streams"] = map[string]int64{"enqueue": enqueue, "work": work}
		answer["panics"] = h.Panics()
	}
	writeJSON(w, status, answer)
}

// about says to people what this is.
func (h *Handler) about(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	host := r.Host
	_, _ = fmt.Fprintf(w, `Beaver-Raft %s: a job queue that never loses a job.

Store a job:
  curl -d '{"queue": "mail", "payload": {"to": "ada"}}' http://%s/beaver.v1.JobService/Enqueue
Take it:
  curl -d '{"queues": ["mail"]}' http://%s/beaver.v1.JobService/Fetch

/readyz    whether calls are served
/livez     whether the process answers
/metrics   figures for Prometheus
`, h.opts.Version, host, host)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only when the client is gone
}
