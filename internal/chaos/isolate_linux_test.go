package chaos

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// isolatedEnv tells a test that it runs in namespaces of its own.
const isolatedEnv = "BEAVER_CHAOS_ISOLATED"

// isolated reports whether this process may make networks and mounts that nobody else sees.
func isolated() bool { return os.Getenv(isolatedEnv) != "" }

// isolate runs the test again in a process of its own, which has its own network, mounts and processes: whatever becomes of it,
// nothing of it is left on the machine. It reports whether that was possible.
func isolate(t *testing.T, env ...string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(append(os.Environ(), isolatedEnv+"=1"), env...)
	runtime.LockOSThread() // the process is killed when the thread that started it ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Logf("no namespaces here: %v", err)
		return false
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })         // it has ended, unless the test was ended
	place := regexp.MustCompile(`^ *\w+_test\.go:\d+: `) // where the line was logged
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") || line == "PASS" || line == "FAIL" {
			continue
		}
		t.Log(place.ReplaceAllString(strings.TrimPrefix(line, "    "), ""))
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the run failed: %v", err)
	}
	return true
}

// mountSmallDisk mounts a file system of its own at dir, where that is allowed.
func mountSmallDisk(dir string, bytes int64) error {
	if !isolated() {
		return fmt.Errorf("no mounts of our own")
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
}

// furnish makes new namespaces fit to live in: mounts show nowhere else, /proc shows the processes, and the loopback device is up.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return raise("lo")
}

// raise brings a network device up.
func raise(device string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, r)
}

// fill writes a file until its file system has only so many bytes left.
func fill(name string, leave int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(name), &s); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // fallocate has done what there is to do
	size := int64(s.Bavail)*s.Bsize - leave
	if size <= 0 {
		return nil
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}
