package host

import (
	"errors"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// Whatever bit flips in the files that say whose a data directory is and which replicas it has, and wherever they are cut off, the node does not
// start, names the file, and changes nothing: with the file as it was it goes on.
func TestRottenRecords(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	if _, err := n.add(0, "k"); err != nil {
		t.Fatal(err)
	}
	n.mustClose(t)
	files := 0
	for name, content := range contents(t, disk, "data") {
		if name != "data/"+identityName && !strings.HasPrefix(name, "data/"+recordDirName+"/") {
			continue
		}
		files++
		for offset := range int64(len(content)) {
			for bit := range uint(8) {
				after := disk.CrashClone(vfs.AllLost())
				if err := after.FlipBit(name, offset, bit); err != nil {
					t.Fatal(err)
				}
				refused(t, after, name)
				if err := after.FlipBit(name, offset, bit); err != nil {
					t.Fatal(err)
				}
				if offset == 0 && bit == 0 {
					mustOpen(t, after, nil, nil).mustClose(t)
				}
			}
			after := disk.CrashClone(vfs.AllLost())
			f, err := after.Create(name + tempSuffix)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte(content[:offset]), 0)
			if err := errors.Join(err, f.Sync(), f.Close(), after.Rename(name+tempSuffix, name), after.SyncDir("data")); err != nil {
				t.Fatal(err)
			}
			refused(t, after, name)
		}
	}
	if files < 2 {
		t.Errorf("only %d files were damaged", files)
	}
}

// refused opens a node one of whose files is damaged.
func refused(t *testing.T, disk *vfs.Sim, name string) {
	t.Helper()
	before := contents(t, disk, "data")
	n, err := openNode(t.Context(), disk, nil, nil)
	if err == nil {
		n.mustClose(t)
		t.Fatalf("%s is damaged, and the node starts", name)
	}
	_, identity := errors.AsType[*IdentityError](err)
	_, record := errors.AsType[*ReplicaError](err)
	if !identity && !record || !strings.Contains(err.Error(), name) {
		t.Errorf("%s is damaged: %v", name, err)
	}
	after := contents(t, disk, "data")
	for name, content := range before {
		if after[name] != content {
			t.Errorf("the refusal changed %s", name)
		}
	}
}
