package rpc

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/internal/engine"
)

// Requests that no procedure gets to see are answered here, with what to do instead: a person made them, with curl or a
// browser, or a program with a wrong address.

// acceptMethod refuses what is neither a POST nor one of Connect's GET requests. It reports whether to go on.
func (h *Handler) acceptMethod(w http.ResponseWriter, r *http.Request) bool {
	allow := http.MethodPost
	if h.reads[r.URL.Path] {
		allow = "GET, POST"
		query := r.URL.Query()
		encoding := query.Get("encoding")
		if r.Method == http.MethodGet && query.Has("message") && (encoding == "json" || encoding == "proto") {
			return true
		}
	}
	if r.Method == http.MethodPost {
		return true
	}
	advice := "POST the request as a JSON object, for example " + example(r)
	if h.bare[r.URL.Path] != nil {
		advice = streamAdvice
	}
	h.refuseMethod(w, r, allow, advice)
	return false
}

const streamAdvice = "this is a stream: open it over HTTP/2 with a client for gRPC or Connect, such as the Go package beaver"

// acceptStream refuses what cannot become a stream. It reports whether to go on.
func (h *Handler) acceptStream(w http.ResponseWriter, r *http.Request) bool {
	kind, _, _ := strings.Cut(strings.ToLower(r.Header.Get("Content-Type")), ";")
	status := http.StatusUnsupportedMediaType
	switch {
	case r.ProtoMajor < 2:
		status = http.StatusHTTPVersionNotSupported
	case streamTypes[strings.TrimSpace(kind)]:
		return true
	}
	h.refuse(w, r, status, &engine.Error{Code: engine.CodeUnimplemented, Reason: reasonNoStream, Message: streamAdvice})
	return false
}

// readOnly answers wrong methods of pages.
func (h *Handler) readOnly(w http.ResponseWriter, r *http.Request) {
	h.refuseMethod(w, r, "GET, HEAD", "GET it; the API's calls have paths such as "+example(r))
}

func (h *Handler) refuseMethod(w http.ResponseWriter, r *http.Request, allow, advice string) {
	w.Header().Set("Allow", allow)
	h.refuse(w, r, http.StatusMethodNotAllowed, &engine.Error{
		Code: engine.CodeUnimplemented, Reason: reasonWrongMethod,
		Message: fmt.Sprintf("%s is not understood at %s: %s", clip(r.Method), clip(r.URL.Path), advice),
	})
}

// example is the command line of a call: of the one that is asked for, or of one that everybody needs.
func example(r *http.Request) string {
	procedure := r.URL.Path
	body, ok := examples[procedure]
	if !ok {
		procedure = exampleProcedure
		body = examples[procedure]
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("curl -d '%s' %s://%s%s", body, scheme, clip(r.Host), procedure)
}

// unknownProcedure answers a path that looks like a procedure's and is none.
func (h *Handler) unknownProcedure(w http.ResponseWriter, r *http.Request) {
	message := fmt.Sprintf("there is no procedure %s", clip(r.URL.Path))
	if names := h.proceduresOf(r.URL.Path); len(names) > 0 {
		message = fmt.Sprintf("%s is a service; name one of its procedures behind it: %s", clip(r.URL.Path), strings.Join(names, ", "))
	} else if near := nearest(r.URL.Path, h.procedures()); near != "" {
		message += "; did you mean " + near + "?"
	} else if near := h.sameName(r.URL.Path); near != "" {
		message += "; did you mean " + near + "?"
	}
	h.refuse(w, r, http.StatusNotFound, &engine.Error{
		Code: engine.CodeUnimplemented, Reason: reasonNoMethod, Message: message,
	})
}

// unknown answers every other path.
func (h *Handler) unknown(w http.ResponseWriter, r *http.Request) {
	message := fmt.Sprintf("there is nothing at %s; see / for what there is", clip(r.URL.EscapedPath()))
	if near := h.sameName(r.URL.Path); near != "" {
		message = fmt.Sprintf("there is nothing at %s; did you mean %s?", clip(r.URL.EscapedPath()), near)
	}
	h.refuse(w, r, http.StatusNotFound, &engine.Error{
		Code: engine.CodeNotFound, Reason: reasonNoPage, Message: message,
	})
}

// sameName is the procedure with the name that a path ends with, or empty.
func (h *Handler) sameName(asked string) string {
	for procedure := range h.rpc {
		if strings.EqualFold(path.Base(procedure), path.Base(asked)) {
			return procedure
		}
	}
	return ""
}

func (h *Handler) procedures() []string {
	names := make([]string, 0, len(h.rpc))
	for name := range h.rpc {
		names = append(names, name)
	}
	return names
}

// proceduresOf are the names of a service's procedures, in order; none if the path is no service's.
func (h *Handler) proceduresOf(service string) []string {
	var names []string
	for procedure := range h.rpc {
		if path.Dir(procedure) == path.Clean(service) {
			names = append(names, path.Base(procedure))
		}
	}
	slices.Sort(names)
	return names
}

// refuse answers a request that no procedure gets to see, in the protocol it was made in.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, status int, e *engine.Error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") && h.writer.IsSupported(r) {
		_ = h.writer.Write(w, r, toConnect(e)) // fails only when the client is gone
		return
	}
	w.Header().Set("Connection", "close") // the body is left unread
	detail, err := connect.NewErrorDetail(errorInfo(e))
	if err != nil {
		detail = &connect.ErrorDetail{}
	}
	answer := refusedRequest{Code: connectCode(e.Code).String(), Message: e.Message, Details: make([]refusedDetail, 1)}
	d := &answer.Details[0]
	d.Type, d.Value, d.Debug.Reason = detail.Type(), base64Raw(detail.Bytes()), e.Reason
	writeJSON(w, status, answer)
}

// refusedRequest is an error as Connect writes it.
type refusedRequest struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Details []refusedDetail `json:"details"`
}

type refusedDetail struct {
	Type  string `json:"type"`
	Value string `json:"value"`
	Debug struct {
		Reason string `json:"reason"`
	} `json:"debug"`
}
