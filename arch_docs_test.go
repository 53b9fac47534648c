package beaver_test

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	markdownLink    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	markdownHeading = regexp.MustCompile(`^#{1,6}\s+(.*)$`)
	// machinePath is a path that exists on one machine only. It is assembled so that this file does not match itself.
	machinePath  = regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/(` + strings.Join([]string{"work", "root", "home", "Users"}, "|") + `)/`)
	testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	testNamed    = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
	reasonGiven  = regexp.MustCompile(`(?m)^\s*(?:const )?[rR]eason[A-Z]\w*\s*=\s*"([A-Z_]+)"`)
	unfinished   = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
)

// document is a Markdown file: where its links lead and what can be linked in it.
type document struct {
	links    []string
	headings map[string]bool
}

func TestDocuments(t *testing.T) {
	documents := map[string]document{}
	walk(t, func(name string) {
		if strings.HasSuffix(name, ".md") && !strings.Contains(name, "testdata/") {
			documents[name] = readDocument(t, name)
		}
	})
	if _, ok := documents["README.md"]; !ok {
		t.Fatal("README.md is missing: every document is reached from it")
	}
	reached := map[string]bool{"README.md": true}
	next := []string{"README.md"}
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		for _, link := range documents[name].links {
			file, heading, _ := strings.Cut(link, "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, link)
				continue
			}
			to, isDocument := documents[target]
			if isDocument && heading != "" && !to.headings[heading] {
				t.Errorf("%s links to %s, but %s has no such heading", name, link, target)
			}
			if isDocument && !reached[target] {
				reached[target] = true
				next = append(next, target)
			}
		}
	}
	for name := range documents {
		if !reached[name] {
			t.Errorf("%s cannot be reached from README.md: link it, or delete it", name)
		}
	}
}

// TestNamedTestsExist keeps the documents' evidence from rotting: a test that one of them names must be there.
func TestNamedTestsExist(t *testing.T) {
	declared := map[string]bool{}
	walk(t, func(name string) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testDeclared.FindAllSubmatch(text, -1) {
			declared[string(match[1])] = true
		}
	})
	walk(t, func(name string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testNamed.FindAllSubmatch(text, -1) {
			if test := string(match[1]); !declared[test] {
				t.Errorf("%s names %s, which is no test of this repository: name the one that shows it now", name, test)
			}
		}
	})
}

// TestReasonsAreDocumented: programs branch on the reasons of errors, so that the table of them is whole.
func TestReasonsAreDocumented(t *testing.T) {
	api, err := os.ReadFile("docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, dir := range []string{"internal/engine", "internal/rpc", "server"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range reasonGiven.FindAllSubmatch(source, -1) {
				found++
				if !bytes.Contains(api, []byte("`"+string(m[1])+"`")) {
					t.Errorf("%s gives the reason %s, which docs/api.md does not explain", name, m[1])
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d reasons were found: they are no longer declared as this test expects", found)
	}
}

// TestNoLeftovers keeps out what only makes sense on one machine or for one person.
func TestNoLeftovers(t *testing.T) {
	walk(t, func(name string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(text, 0) >= 0 {
			return // not text
		}
		for i, line := range strings.Split(string(text), "\n") {
			if machinePath.MatchString(line) {
				t.Errorf("%s:%d names a path of one machine; use a relative path or a placeholder", name, i+1)
			}
			if strings.HasSuffix(name, ".go") && unfinished.MatchString(line) {
				t.Errorf("%s:%d: finish it, or open an issue and leave no mark", name, i+1)
			}
		}
	})
}

func readDocument(t *testing.T, name string) document {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := document{headings: map[string]bool{}}
	inCode := false
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
			continue
		}
		if inCode {
			continue
		}
		if heading := markdownHeading.FindStringSubmatch(line); heading != nil {
			d.headings[anchor(heading[1])] = true
		}
		for _, link := range markdownLink.FindAllStringSubmatch(line, -1) {
			if !strings.Contains(link[1], "://") && !strings.HasPrefix(link[1], "mailto:") {
				d.links = append(d.links, link[1])
			}
		}
	}
	return d
}

// anchor is the fragment by which a heading is linked, as the usual renderers make it.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}
