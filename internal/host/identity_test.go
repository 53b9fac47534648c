package host

import (
	"bytes"
	"testing"
)

func FuzzIdentity(f *testing.F) {
	f.Add(encodeIdentity(Identity{Format: formatVersion, Cluster: 7, Node: 1}))
	f.Add([]byte(identityMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, reason := decodeIdentity(b)
		if reason != "" {
			return
		}
		// What is accepted is what this version writes, but for reserved bytes.
		want := encodeIdentity(id)
		if len(b) != len(want) || !bytes.Equal(b[:12], want[:12]) || !bytes.Equal(b[16:32], want[16:32]) {
			t.Fatalf("accepted %x as %+v", b, id)
		}
	})
}
