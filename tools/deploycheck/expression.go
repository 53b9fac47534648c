package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// readDashboard returns the expressions of all panels, with every variable at "all".
func readDashboard(name string) (all []expression, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var board struct {
		Templating struct {
			List []struct{ Name, AllValue string }
		}
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			return nil, fmt.Errorf("panel %q shows nothing", p.Title)
		}
		for _, t := range p.Targets {
			promQL := t.Expr
			for _, v := range board.Templating.List {
				promQL = strings.ReplaceAll(promQL, "$"+v.Name, v.AllValue)
			}
			if strings.Contains(promQL, "$") {
				return nil, fmt.Errorf("panel %q has a variable that the dashboard does not define: %s", p.Title, promQL)
			}
			all = append(all, expression{fmt.Sprintf("panel %q", p.Title), promQL})
		}
	}
	return all, nil
}

// vectors returns what an alert's expression compares with bounds: it is vectors, each compared with a number, joined by "and".
func vectors(promQL string) (all []string) {
	for _, part := range split(promQL, " and ") {
		for _, matching := range []string{"on", "ignoring"} {
			if rest, ok := strings.CutPrefix(part, matching+" ("); ok {
				_, part, _ = strings.Cut(rest, ") ")
			}
		}
		all = append(all, split(part, " == ", " != ", " <= ", " >= ", " < ", " > ")[0])
	}
	return all
}

// split cuts text at separators that are in no parentheses, braces, brackets or quotes.
func split(text string, separators ...string) (parts []string) {
	depth, quoted, start := 0, false, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("({[", c) >= 0:
			depth++
		case strings.IndexByte(")}]", c) >= 0:
			depth--
		case depth == 0:
			for _, s := range separators {
				if strings.HasPrefix(text[i:], s) {
					parts = append(parts, strings.TrimSpace(text[start:i]))
					i += len(s) - 1
					start = i + 1
					break
				}
			}
		}
	}
	return append(parts, strings.TrimSpace(text[start:]))
}
