package snapshot

const (
	// ConfStateBytesMax bounds Meta.ConfState.
	ConfStateBytesMax = 64 << 10
	// KeepDefault is how many good snapshots a shard keeps: the newest, and the one before it in case that is damaged.
	KeepDefault = 2

	// chunkBytesMax is the payload of every data chunk but the last: one write to the disk.
	chunkBytesMax = 512 << 10
	// chunksMax is what the chunk number can count: 2 PiB of content.
	chunksMax = 1<<32 - 1
)
