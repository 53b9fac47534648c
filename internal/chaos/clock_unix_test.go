//go:build unix

package chaos

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// clockEnv names the file that says how far a process's wall clock is from the machine's.
const clockEnv = "BEAVER_CHAOS_CLOCK"

// jumpSource is a file that package time of the tested binary has beside its own.
const jumpSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// jump is how many nanoseconds the wall clock is ahead, in a page that another process writes.
var jump = mapJump()

func mapJump() *atomic.Int64 {
	name, ok := syscall.Getenv("` + clockEnv + `")
	if !ok {
		return new(atomic.Int64)
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("` + clockEnv + `: " + err.Error())
	}
	page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("` + clockEnv + `: " + err.Error())
	}
	return (*atomic.Int64)(unsafe.Pointer(&page[0]))
}

func jumpedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	n := int64(nsec) + jump.Load()
	sec, n = sec+n/1e9, n%1e9
	if n < 0 {
		sec, n = sec-1, n+1e9
	}
	return sec, int32(n), mono
}
`

// buildJumping builds the binary with a wall clock that jumps at the tests' command, and with its dear checks on. The clock is changed
// below everything, in the standard library's package time, by an overlay of the build: no line of the product knows of it, so it
// is all of the process that sees a jump, as it would on a machine. The monotonic clock goes on as it does there.
func buildJumping(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin/_chaos") // the same place each time, so that what was built is found again; no package to go build
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(runtime.GOROOT(), "src", "time", "time.go") //nolint:staticcheck // the toolchain that runs the test is the one that builds
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const before, after = "\n\tsec, nsec, mono := runtimeNow()\n", "\n\tsec, nsec, mono := jumpedNow()\n"
	if strings.Count(string(source), before) != 1 {
		t.Fatalf("%s does not read the clock as it did: adapt jumpSource to this release of Go", original)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		original: filepath.Join(dir, "time.go"),
		filepath.Join(filepath.Dir(original), "jump.go"): filepath.Join(dir, "jump.go"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"time.go": strings.Replace(string(source), before, after, 1), "jump.go": jumpSource, "overlay.json": string(overlay),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "beaver")
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-tags", "invariants", "-o", bin, "github.com/beaver-raft/beaver/cmd/beaver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the binary: %v\n%s", err, out)
	}
	return bin
}

// wallClock is the file that moves one process's wall clock.
type wallClock string

func newWallClock(name string) (wallClock, error) {
	c := wallClock(name)
	return c, c.jump(0)
}

func (c wallClock) env() string { return clockEnv + "=" + string(c) }

// jump moves the clock to so far from the machine's.
func (c wallClock) jump(by time.Duration) error {
	f, err := os.OpenFile(string(c), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by)), 0); err != nil {
		return fmt.Errorf("move a clock: %w", err)
	}
	return f.Close()
}
