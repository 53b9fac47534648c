// Command golden has an earlier version of this repository write a golden archive, and keeps it here.
//
//	go -C tools run ./golden -name 2 -from v0.1.0
//
// It checks the revision out beside the work tree, runs that version's own TestGolden with BEAVER_GOLDEN, and copies what it wrote to
// server/testdata/golden. Then it has the version of the work tree load all archives. It never writes over an archive, and it leaves no
// checkout behind.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// archives is where golden archives are, in every version.
const archives = "server/testdata/golden"

// names are the names that an archive may have.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func main() {
	name := flag.String("name", "", "the archive's name: of the version that wrote it")
	from := flag.String("from", "", "the revision that writes it: the last one before the change of a format")
	flag.Parse()
	if err := run(*name, *from); err != nil {
		fmt.Fprintln(os.Stderr, "golden:", err)
		os.Exit(1)
	}
}

func run(name, from string) (err error) {
	if !names.MatchString(name) || from == "" {
		return errors.New("say -name, of letters, digits, dots and dashes, and -from, a revision")
	}
	root, err := filepath.Abs("..") // go -C tools
	if err != nil {
		return err
	}
	kept := filepath.Join(root, archives, name+".tar.gz")
	if _, err := os.Stat(kept); err == nil {
		return fmt.Errorf("%s is there, and is never written again: choose another -name", kept)
	}
	beside, err := os.MkdirTemp("", "beaver-golden-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(beside)) }()
	earlier := filepath.Join(beside, "checkout")
	if err := command(root, nil, "git", "worktree", "add", "--detach", earlier, from); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, command(root, nil, "git", "worktree", "remove", "--force", earlier)) }()
	test := []string{"go", "test", "./server", "-run", "^TestGolden$", "-count", "1"}
	if err := command(earlier, []string{"BEAVER_GOLDEN=" + name}, test...); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(earlier, archives, name+".tar.gz"))
	if err != nil {
		return fmt.Errorf("%s has no golden archives: %w", from, err)
	}
	if err := os.WriteFile(kept, data, 0o644); err != nil {
		return err
	}
	return command(root, nil, append(test, "-v")...)
}

// command runs a command and shows what it says.
func command(dir string, env []string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", args, err)
	}
	return nil
}
