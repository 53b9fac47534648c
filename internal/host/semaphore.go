package host

// semaphore lets one goroutine at a time through, in the order in which they came. It guards what is held while the disk is waited
// for; what is held for a moment has a sync.Mutex.
//
// It is a channel because of testing/synctest, for which a goroutine that waits for a mutex is still running. While a test holds
// up a sync, whoever waits behind it must count as blocked: else the time of the test stands still, and it never ends.
type semaphore chan struct{}

func newSemaphore() semaphore { return make(semaphore, 1) }

func (s semaphore) acquire() { s <- struct{}{} }

// tryAcquire acquires the semaphore if nobody has it.
func (s semaphore) tryAcquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// release lets the next one through. REQUIRES: the semaphore is acquired.
func (s semaphore) release() { <-s }
