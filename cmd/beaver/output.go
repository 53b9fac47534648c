package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// The output formats.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// parseOutput reads a flag --output.
func parseOutput(output string) (json bool, err error) {
	if output != outputTable && output != outputJSON {
		return false, fmt.Errorf("--output is %q; use %s or %s", output, outputTable, outputJSON)
	}
	return output == outputJSON, nil
}

// json reports whether the output is for scripts.
func (a *app) json() bool { return a.output == outputJSON }

// printJSON prints v for scripts.
func (a *app) printJSON(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := a.stdout.Write(b.Bytes())
	return err
}

// print prints to the standard output.
func (a *app) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// table prints rows under a header, columns separated by tabs.
func (a *app) table(header string, rows []string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, header); err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, row); err != nil {
			return err
		}
	}
	return w.Flush()
}

// row joins the cells of a row. The last one may be a note, which is of no use without its end.
func row(cells ...any) string {
	texts := make([]string, len(cells))
	for i, c := range cells {
		most := cellMax
		if i == len(cells)-1 {
			most = noteMax
		}
		if texts[i] = oneLine(fmt.Sprint(c), most); texts[i] == "" {
			texts[i] = "-"
		}
	}
	return strings.Join(texts, "\t")
}

// cellMax and noteMax are the most characters of a cell, and of the last one of a row.
const (
	cellMax = 60
	noteMax = 300
)

// oneLine returns s on one line of printable characters, cut if it is too long.
func oneLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
	if runes := []rune(s); len(runes) > max {
		return string(runes[:max-1]) + "…"
	}
	return s
}

// ago is how long ago t was, or how long until it is, for people.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if d := a.now().Sub(t); d >= 0 {
		return short(d) + " ago"
	}
	return "in " + short(t.Sub(a.now()))
}

// short is a duration with one or two units.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
}

// byteSize is a number of bytes for people.
func byteSize[T ~int | ~int64 | ~uint64](n T) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefixes := float64(n), "KMGTPE"
	for i := range prefixes {
		if value /= unit; value < unit || i == len(prefixes)-1 {
			return fmt.Sprintf("%.1f %ciB", value, prefixes[i])
		}
	}
	return ""
}

// plural is a count with its noun.
func plural[T ~int | ~uint64](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
