package transport

import (
	"time"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// What one message, chunk or call may have.
const (
	// EntryBytesMax is the largest data of one entry.
	EntryBytesMax = 8 << 20
	// MessageBytesMax bounds a Raft message with its entries; a larger one is not sent. One entry of the largest size fits,
	// and so do the many entries of a message whose target is far below.
	MessageBytesMax = 9 << 20
	// ContextBytesMax bounds the context of a Raft message.
	ContextBytesMax = 64 << 10
	// TransferBytesMax bounds one chunk or acknowledgement of a transfer: one entry of the largest size fits.
	TransferBytesMax = 8<<20 + 64<<10
	// CallBytesMax bounds the body of a call and of its answer.
	CallBytesMax = 8 << 20
	// IntroductionBytesMax bounds an introduction and its answer.
	IntroductionBytesMax = 64 << 10
	// errorBytesMax bounds the text of a handler's error; what is longer is cut.
	errorBytesMax = 4 << 10
)

// What may wait for one peer.
const (
	// QueueBytesDefault bounds the entry data that waits for a peer.
	QueueBytesDefault = 32 << 20
	// queueMessagesMax bounds the messages that wait for a peer.
	queueMessagesMax = 32 << 10
	// transferQueueBytesMax bounds the chunks that wait for a peer.
	transferQueueBytesMax = 16 << 20
	// transferQueueMax bounds their number, and that of small ones apart.
	transferQueueMax = 1024
	// transferSmallBytesMax is the size of chunks that do not wait behind larger ones. Acknowledgements fit, and offers of snapshots.
	transferSmallBytesMax = 1 << 10
	// callsMax bounds the calls to a peer that have no answer yet. Most of them are fetches that wait there for work, one for each
	// connected worker.
	callsMax = 20_000
	// callQueueBytesMax bounds the bodies of the calls that wait to be sent to a peer.
	callQueueBytesMax = 64 << 20
	// callsServedMax bounds the calls of one peer that the handler works on at once.
	callsServedMax = 20_000
	// callsServedBytesMax bounds the bodies of these calls and of their answers.
	callsServedBytesMax = 64 << 20
)

// The limits of the cluster as a transport sees it.
const (
	// PeersMax bounds the peers of a node.
	PeersMax = 255
	// handshakesMax bounds the accepted connections whose handshake is not over; for a further one the oldest is closed.
	handshakesMax = 128
	// SecretBytesMin is the least length of a cluster's secret. Whoever can reach a node's port can try out guesses without asking
	// the node again, so the secret has to be random, not memorable.
	SecretBytesMin = 32
	// SecretBytesMax bounds it, so that not a whole file is taken for one.
	SecretBytesMax = 4 << 10
	// credentialBytesMax bounds each file of keys and certificates.
	credentialBytesMax = 1 << 20
)

// Times. All but the fixed ones are defaults of Config.
const (
	// PingIntervalDefault is how often a peer is asked for a sign of life.
	PingIntervalDefault = 500 * time.Millisecond
	// SilenceMaxDefault is how long a connection may be silent before it is cut: about two elections.
	SilenceMaxDefault = 3 * time.Second
	// DialTimeoutDefault bounds the dialling and the handshake.
	DialTimeoutDefault = 3 * time.Second
	// BackoffMinDefault is the pause after the first failed attempt; each further one doubles it.
	BackoffMinDefault = 25 * time.Millisecond
	// BackoffMaxDefault bounds the pause.
	BackoffMaxDefault = time.Second
	// TransferRateDefault is how many bytes of transfers a node sends a second, to all peers together.
	TransferRateDefault = 64 << 20
	// TransferRateMin is the least that a Config takes: below it a member that is behind has little hope to catch up.
	TransferRateMin = 1 << 20
	// TransferRateMax is the most.
	TransferRateMax = 1 << 30

	// IntroductionTimeMax bounds what an introduction takes on both sides, the dialling included.
	IntroductionTimeMax = 10 * time.Second

	// talkShare is into how many parts the time between two pings is divided to see whether a peer talks.
	talkShare = 8

	acceptPauseMin = 5 * time.Millisecond // after a failed accept, when the system is short of something
	acceptPauseMax = time.Second
	refusalLogGap  = time.Second // between two logged refusals; those between are counted
)

// Sizes that decide speed, not correctness.
const (
	// frameTargetBytes is up to which size what waits is gathered into one frame; a single larger message ends it. Frames that do not
	// fit a core's cache were a third slower.
	frameTargetBytes = 256 << 10
	// frameMessagesMax bounds the messages of a frame.
	frameMessagesMax = 4096
	// copyBytesMax is up to which size data is copied into the frame: an element of a vector costs more than that.
	copyBytesMax = 4 << 10
	// shareBytesMax is up to which size the entries of a received message share one allocation. Above it each entry has its
	// own, so that one which is kept does not keep the others.
	shareBytesMax = 64 << 10
	// slabCount is how many messages or entries are allocated together, for the same reason no more.
	slabCount = 16
	// bufferBytes is the size of the buffers between a connection and its reader or writer.
	bufferBytes = 64 << 10
	// wantsKeep is how much room for entries a decoder keeps for the next frame.
	wantsKeep = 4096
	// bodyKeepBytesMin and bodyKeepBytesMax bound the bodies of requests whose memory is used again: small ones are cheaper to make anew,
	// and a rare large one must not stay for ever.
	bodyKeepBytesMin = 16 << 10
	bodyKeepBytesMax = 1 << 20
	// bufferKeepBytes is the largest buffer of a writer or reader that is kept for the next frame.
	bufferKeepBytes = 1 << 20
)

// batchBytesMax bounds the messages of a frame: those below the target, and the one that went over it.
const batchBytesMax = frameTargetBytes + MessageBytesMax

// checkLimits asserts how the limits relate. They are constants, so it costs nothing.
func checkLimits() {
	invariant.Check(messageHeadBytes+8*fieldCount+entryHeadBytes+ContextBytesMax+EntryBytesMax <= MessageBytesMax, "a message with the largest entry cannot be sent")
	invariant.Check(frameMessagesMax <= queueMessagesMax, "a frame holds more than may wait")
	invariant.Check(TransferBytesMax <= transferQueueBytesMax, "the largest chunk cannot be queued")
	invariant.Check(CallBytesMax <= callQueueBytesMax && CallBytesMax <= callsServedBytesMax, "the largest call cannot be made")
	invariant.Check(PingIntervalDefault*4 <= SilenceMaxDefault, "a lost ping or two end a connection")
}
