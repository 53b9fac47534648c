package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fabricNet is where the places are: place 0 at its first address.
	fabricNet = "10.98.0."
	// fabricPacketBytes is the size of the largest packet. Larger than on most wires, so that the test carries fewer of them.
	fabricPacketBytes = 8192
	placesMax         = 200
)

// fabric is a network of packets: each place is a network namespace with one device, whose packets this process carries from one to the
// other, or not. So what the nodes have is real TCP that meets loss, delay and cut wires, in one direction too.
//
// Goroutines: carry, one a place, which ends when the place is left.
type fabric struct {
	weather *weather
	seed    uint64
	group   sync.WaitGroup
	ports   [placesMax]atomic.Pointer[port]
}

// port is the device of one place and the namespace that it is in.
type port struct {
	device    *os.File
	namespace *os.File // nil: this process's own
}

// newFabric makes the network, with the place of the outside in this process's own namespace. It fails where that is not allowed.
func newFabric(w *weather, seed uint64) (network, error) {
	if !isolated() {
		return nil, errors.New("this process is not in a namespace of its own")
	}
	f := &fabric{weather: w, seed: seed}
	device, err := newDevice(outside)
	if err != nil {
		return nil, err
	}
	f.plug(outside, &port{device: device})
	return f, nil
}

func (f *fabric) String() string { return "network namespaces" }

func (f *fabric) secured() bool { return true }

// named implements network: packets say where they come from.
func (f *fabric) named(uint64, int) {}

func (f *fabric) plug(place int, p *port) {
	f.ports[place].Store(p)
	f.group.Go(func() { f.carry(place, p) })
}

// settle implements network.
func (f *fabric) settle(place int) (addresses, error) {
	p := &port{}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		failed <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("a network namespace: %w", err)
			}
			if p.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
				return err
			}
			p.device, err = newDevice(place)
			return err
		}()
	}()
	if err := <-failed; err != nil {
		return addresses{}, err
	}
	f.plug(place, p)
	client, peer := fmt.Sprintf("%s%d:7400", fabricNet, place+1), fmt.Sprintf("%s%d:7401", fabricNet, place+1)
	return addresses{client, client, peer, peer}, nil
}

// leave implements network.
func (f *fabric) leave(place int) {
	if p := f.ports[place].Swap(nil); p != nil {
		_ = p.device.Close() // carry ends
		if p.namespace != nil {
			_ = p.namespace.Close()
		}
	}
}

func (f *fabric) close() {
	for place := range f.ports {
		f.leave(place)
	}
	f.group.Wait()
}

// run implements network.
func (f *fabric) run(place int, start func() error) error {
	p := f.ports[place].Load()
	if p == nil || p.namespace == nil {
		return start()
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(p.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			failed <- fmt.Errorf("enter a network namespace: %w", err)
			return
		}
		failed <- start()
	}()
	return <-failed
}

// carry carries what comes from one place to where it is to go.
func (f *fabric) carry(place int, p *port) {
	rng := rand.New(rand.NewPCG(f.seed, 2000+uint64(place)))
	packet := make([]byte, fabricPacketBytes+64)
	for {
		n, err := p.device.Read(packet)
		if err != nil {
			return
		}
		const headerBytes, version4 = 20, 4
		if n < headerBytes || packet[0]>>4 != version4 {
			continue // the kernel's own IPv6 announcements
		}
		to := int(packet[19]) - 1
		if to < 0 || to >= placesMax {
			continue
		}
		lost, delay := f.weather.fate(rng, direction{place, to})
		switch {
		case lost:
		case delay > 0:
			later := append([]byte(nil), packet[:n]...)
			time.AfterFunc(delay, func() { f.deliver(to, later) })
		default:
			f.deliver(to, packet[:n])
		}
	}
}

// deliver hands a packet to a place. One for a place that nobody is at, or that takes no more, is lost as on any wire.
func (f *fabric) deliver(to int, packet []byte) {
	if p := f.ports[to].Load(); p != nil {
		_, _ = p.device.Write(packet)
	}
}

// newDevice makes the device of a place in the namespace of the calling thread.
func newDevice(place int) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := configureDevice(fd, place); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("tun of place %d", place)), nil
}

func configureDevice(fd, place int) error {
	const name = "beaver"
	device, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, device); err != nil {
		return fmt.Errorf("make a tun device: %w", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	for _, step := range []struct {
		request uint
		value   func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{10, 98, 0, byte(place + 1)}) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(fabricPacketBytes); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := step.value(r); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(socket, step.request, r); err != nil {
			return fmt.Errorf("configure the device of place %d: %w", place, err)
		}
	}
	return raise(name)
}
