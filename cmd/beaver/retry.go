package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/beaver-raft/beaver"
)

// duration is a time.Duration written as "30s", as in the API's JSON.
type duration time.Duration

// UnmarshalJSON reads "30s" or "1h30m".
func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf(`%s is not a duration; write it like "30s"`, b)
	}
	v, err := parseDuration(s)
	if err != nil {
		return err
	}
	*d = duration(v)
	return nil
}

// instant is a point in time written as RFC 3339 has it.
type instant struct{ time.Time }

// UnmarshalJSON reads "2006-01-02T15:04:05Z".
func (t *instant) UnmarshalJSON(b []byte) error {
	if t.Time.UnmarshalJSON(b) != nil {
		return fmt.Errorf(`%s is not a time; write it like "2006-01-02T15:04:05Z"`, b)
	}
	return nil
}

// MarshalJSON writes "30s".
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// retryJSON is a retry policy as in the API's JSON. One of its kinds is set.
type retryJSON struct {
	Exponential *struct {
		Base duration `json:"base,omitzero"`
		Max  duration `json:"max,omitzero"`
	} `json:"exponential,omitempty"`
	Fixed *struct {
		Delay duration `json:"delay"`
	} `json:"fixed,omitempty"`
	List *struct {
		Delays []duration `json:"delays"`
	} `json:"list,omitempty"`
	Never         bool `json:"never,omitempty"`
	JitterPercent *int `json:"jitterPercent,omitempty"`
}

func retryOutput(p *beaver.RetryPolicy) *retryJSON {
	if p == nil {
		return nil
	}
	out := &retryJSON{JitterPercent: p.JitterPercent}
	switch p.Kind {
	case beaver.RetryExponential:
		out.Exponential = &struct {
			Base duration `json:"base,omitzero"`
			Max  duration `json:"max,omitzero"`
		}{duration(p.Base), duration(p.Max)}
	case beaver.RetryFixed:
		out.Fixed = &struct {
			Delay duration `json:"delay"`
		}{duration(p.Base)}
	case beaver.RetryList:
		out.List = &struct {
			Delays []duration `json:"delays"`
		}{}
		for _, d := range p.Delays {
			out.List.Delays = append(out.List.Delays, duration(d))
		}
	case beaver.RetryNever:
		out.Never = true
	}
	return out
}

func (r *retryJSON) policy() *beaver.RetryPolicy {
	if r == nil {
		return nil
	}
	p := &beaver.RetryPolicy{JitterPercent: r.JitterPercent}
	switch {
	case r.Never:
		p.Kind = beaver.RetryNever
	case r.Fixed != nil:
		p.Kind, p.Base = beaver.RetryFixed, time.Duration(r.Fixed.Delay)
	case r.List != nil:
		p.Kind = beaver.RetryList
		for _, d := range r.List.Delays {
			p.Delays = append(p.Delays, time.Duration(d))
		}
	case r.Exponential != nil:
		p.Base, p.Max = time.Duration(r.Exponential.Base), time.Duration(r.Exponential.Max)
	}
	return p
}

const retryFlagHelp = "how long failed jobs wait: exponential, exponential:BASE,MAX, fixed:DELAY, list:DELAY,DELAY,… or never"

// parseRetry reads a retry policy as flags give it.
func parseRetry(s string) (*beaver.RetryPolicy, error) {
	kind, rest, _ := strings.Cut(s, ":")
	var delays []time.Duration
	for text := range strings.SplitSeq(rest, ",") {
		if rest == "" {
			break
		}
		d, err := parseDuration(text)
		if err != nil {
			return nil, usage("--retry %q: %w", s, err)
		}
		delays = append(delays, d)
	}
	switch {
	case kind == "never" && len(delays) == 0:
		return &beaver.RetryPolicy{Kind: beaver.RetryNever}, nil
	case kind == "fixed" && len(delays) == 1:
		return &beaver.RetryPolicy{Kind: beaver.RetryFixed, Base: delays[0]}, nil
	case kind == "list" && len(delays) > 0:
		return &beaver.RetryPolicy{Kind: beaver.RetryList, Delays: delays}, nil
	case kind == "exponential" && len(delays) == 0:
		return &beaver.RetryPolicy{}, nil
	case kind == "exponential" && len(delays) == 2:
		return &beaver.RetryPolicy{Base: delays[0], Max: delays[1]}, nil
	}
	return nil, usage("--retry %q is not a policy; use exponential, exponential:1s,1h, fixed:30s, list:1s,10s,1m or never", s)
}
