package transport

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// counting is a handler that counts.
type counting struct {
	Handler
	messages atomic.Int64
	arrived  chan struct{}
}

func newCounting() *counting { return &counting{Handler: newRecord(), arrived: make(chan struct{}, 1)} }

func (c *counting) Receive(_ uint64, _ uint16, messages []*raftpb.Message) {
	c.messages.Add(int64(len(messages)))
	signal(c.arrived)
}

func (c *counting) PeerUp(uint64) {}

func (c *counting) ServeCall(_ context.Context, _ uint64, _ uint8, body []byte) ([]byte, error) {
	return body, nil
}

func benchPair(b *testing.B, security Security) (one *Transport, h2 *counting) {
	h2 = newCounting()
	one, address1 := tcp(b, 1, newCounting(), security)
	two, address2 := tcp(b, 2, h2, security)
	if one.SetPeer(2, address2) != nil || two.SetPeer(1, address1) != nil {
		b.Fatal("the peers are not known")
	}
	return one, h2
}

// BenchmarkMessages sends what a leader sends, keeping so many bytes or messages under way as Raft's windows allow: with one
// entry a message.
func BenchmarkMessages(b *testing.B) {
	for _, mode := range []string{"plain", "tls"} {
		security := Insecure()
		if mode == "tls" {
			security = Secret(testSecret())
		}
		for _, size := range []int{0, 1 << 10, 256 << 10} {
			name := fmt.Sprintf("%s/%dKiB", mode, size>>10)
			if size == 0 {
				name = mode + "/heartbeat"
			}
			b.Run(name, func(b *testing.B) {
				one, h2 := benchPair(b, security)
				m := []*raftpb.Message{heartbeat(1)}
				window := int64(4096)
				if size > 0 {
					m[0] = appendOf(1, make([]byte, size))
					window = min(window, int64(16<<20/size))
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				sent := int64(0)
				for b.Loop() {
					for sent-h2.messages.Load() >= window {
						<-h2.arrived
					}
					if !one.Send(2, uint16(sent), m) {
						b.Fatal("a message was dropped")
					}
					sent++
				}
				for h2.messages.Load() < sent {
					<-h2.arrived
				}
				b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "messages/s")
				s := one.Stats().Peers[0].Messages
				b.ReportMetric(float64(s.MessagesOut)/float64(s.FramesOut), "messages/frame")
			})
		}
	}
}

// BenchmarkRoundTrip is the time of a lone message there, and of a lone call there and back.
func BenchmarkRoundTrip(b *testing.B) {
	for _, mode := range []string{"plain", "tls"} {
		security := Insecure()
		if mode == "tls" {
			security = Secret(testSecret())
		}
		b.Run(mode+"/message", func(b *testing.B) {
			one, h2 := benchPair(b, security)
			m := []*raftpb.Message{appendOf(1, make([]byte, 1<<10))}
			b.ReportAllocs()
			for b.Loop() {
				one.Send(2, 1, m)
				<-h2.arrived
			}
		})
		b.Run(mode+"/call", func(b *testing.B) {
			one, _ := benchPair(b, security)
			body := make([]byte, 1<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := one.Call(b.Context(), 2, 1, body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(mode+"/calls", func(b *testing.B) {
			one, _ := benchPair(b, security)
			body := make([]byte, 1<<10)
			b.SetParallelism(64)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := one.Call(b.Context(), 2, 1, body); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkCodec is the codec alone: a batch of 64 messages.
func BenchmarkCodec(b *testing.B) {
	for name, m := range map[string]*raftpb.Message{"heartbeat": heartbeat(1), "1KiB": appendOf(1, make([]byte, 1<<10))} {
		b.Run(name, func(b *testing.B) {
			e, ok := seal(1, m)
			if !ok {
				b.Fatal("it cannot be sent")
			}
			var meta []byte
			var d batchDecoder
			b.ReportAllocs()
			for b.Loop() {
				meta = meta[:0]
				for range 64 {
					meta = appendMessage(meta, e)
				}
				if _, err := d.decodeBatch(meta, 64); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
