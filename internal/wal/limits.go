package wal

const (
	// EntryBytesMax is the largest Data of one entry.
	EntryBytesMax = 8 << 20

	defaultFileBytes    = 64 << 20
	fileBytesMin        = 4 << 10 // small files are for tests and for tiny disks
	fileBytesMax        = 1 << 30
	defaultBufferBytes  = 64 << 20
	bufferBytesMin      = 64 << 10
	defaultReserveBytes = 256 << 20
	reserveFileBytesMax = 64 << 20
	defaultCompactBelow = 50
	defaultKeepAbove    = 75
	defaultSpareFiles   = 2

	// firstFileBytesMax bounds the file that Open creates, so that a start does not wait for a whole file of zeros. Each
	// spare after that is fileGrowth times as large as the file before it, up to FileBytes: a short run zeroes little.
	firstFileBytesMax = 4 << 20
	fileGrowth        = 4

	// shortFileBytes and shorterFileBytes bound the files that are begun when the disk is nearly full.
	shortFileBytes   = 1 << 20
	shorterFileBytes = 64 << 10

	// bufferKeepBytes is the largest write buffer kept for reuse between flushes.
	bufferKeepBytes = 16 << 20

	scanBytes          = 1 << 20   // one read of the recovery scan, unless one frame is larger
	copyReadBytes      = 256 << 10 // one read when live entries are copied, unless one frame is larger
	copyDirectBytes    = 16 << 10  // a frame so large is read by itself, to where it is written from
	copyWriteBytes     = 256 << 10 // one write to a segment: a flush may have to wait for it
	readAheadBytes     = 512 << 10 // read ahead of those who read a segment in order, in one request
	readBehindBytes    = 4 * readAheadBytes
	maintainStepBytes  = 4 << 20   // most bytes one Maintain step copies or zeroes (one frame may exceed it)
	leisureStepBytes   = 256 << 10 // what it zeroes instead while there is no hurry: no flush waits long for that
	hurryFraction      = 4         // the next file is in a hurry once this part of the current one is written
	salvageBytes       = 4 << 10   // one read of a frame that does not read back whole
	sectorBytes        = 512       // one read around what the disk refuses to read, by Open
	unreadableTriesMax = 3         // tries to read what the disk refuses, before it counts as damaged
	segmentTargetBytes = 64 << 20  // compaction merges neighbours up to about this size
	segmentSmallBytes  = segmentTargetBytes / 8
	unsettledFraction  = 16      // a segment is left alone while one part in so many of what lives in it dies from one accounting to the next,
	settleCalls        = 8       // or until Maintain found so often that there was nothing to do,
	settleBytesMax     = 1 << 20 // and that no more than this was appended since it last did
	segmentMergeFanIn  = 8       // this many small neighbours are merged even when all is live
	segmentHandlesMax  = 256
	wantedMax          = 64 << 10 // damaged entries of a shard that are noted
	mendBytesMax       = 64 << 20 // of mended entries that wait for Maintain
	intakeSyncBytes    = 4 << 20  // received entries are synced so often, and sent again from there after a crash
	segmentEntriesMax  = 4 << 20  // entries of one segment: its index block stays below 128 MiB
)
