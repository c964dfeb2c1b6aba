package main

// A yamux stream. Either it is read like a file (handshakes, ping-pong), or it counts what comes and lets it go (bulk),
// or it takes nothing and grants nothing (a stalled reader).

import (
	"io"
	"sync"
)

// The most payload of one DATA frame: what go-yamux puts into its 64 KiB messages. js's is 64 KiB, rust's 16 KiB.
const maxFrameBody = 64*1024 - headerSize

type streamMode int

const (
	reading streamMode = iota
	counting
	stalled
)

type stream struct {
	session *session
	id      uint32

	mu sync.Mutex
	// changed wakes writers without credit and readers without bytes.
	changed sync.Cond
	credit  uint32
	err     error
	eof     bool
	closed  bool

	mode     streamMode
	unread   []byte
	window   uint32
	ungiven  uint32
	received int64
	sent     int64
	// arrived is told when received reaches awaited.
	awaited int64
	arrived chan struct{}
}

func newStream(s *session, id uint32) *stream {
	one := &stream{session: s, id: id, credit: firstWindow, window: firstWindow}
	one.changed.L = &one.mu
	return one
}

// deliver takes bytes of the other side. Called by the session's reader.
func (t *stream) deliver(data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.received += int64(len(data))
	switch t.mode {
	case reading:
		t.unread = append(t.unread, data...)
		t.changed.Broadcast()
	case counting:
		t.give(uint32(len(data)))
		t.notice()
	case stalled:
	}
}

// give returns window that was used up, once half of it is. Called with the lock held.
func (t *stream) give(size uint32) {
	t.ungiven += size
	if t.ungiven >= t.window/2 && !t.eof && t.err == nil {
		t.session.ask(encodeHeader(frameWindowUpdate, 0, t.id, t.ungiven))
		t.ungiven = 0
	}
}

func (t *stream) notice() {
	if t.arrived != nil && t.received >= t.awaited {
		close(t.arrived)
		t.arrived = nil
	}
}

// allow takes a window update.
func (t *stream) allow(size uint32) {
	t.mu.Lock()
	t.credit += size
	t.changed.Broadcast()
	t.mu.Unlock()
}

// heed takes the other side's FIN or RST, if the flags hold one.
func (t *stream) heed(flags uint16) {
	if flags&(flagFIN|flagRST) == 0 {
		return
	}
	reset := flags&flagRST != 0
	t.mu.Lock()
	t.eof = true
	if reset && t.err == nil {
		t.err = errReset
	}
	gone := t.closed || reset
	t.changed.Broadcast()
	t.mu.Unlock()
	if gone {
		t.session.forget(t.id)
	}
}

func (t *stream) broken(err error) {
	t.mu.Lock()
	t.err = err
	t.changed.Broadcast()
	t.mu.Unlock()
}

// Read is io.Reader's.
func (t *stream) Read(into []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.unread) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		if t.eof {
			return 0, io.EOF
		}
		t.changed.Wait()
	}
	n := copy(into, t.unread)
	t.unread = t.unread[:copy(t.unread, t.unread[n:])]
	t.give(uint32(n))
	return n, nil
}

// Write is io.Writer's: everything leaves at once.
func (t *stream) Write(data []byte) (int, error) {
	frame := newFrame(t.id, len(data))
	copy(frame[headerSize:], data)
	return len(data), t.sendFrame(frame, true)
}

// newFrame gives a buffer for writes of size bytes: each is sealed from where it lies.
func newFrame(id uint32, size int) []byte {
	head := encodeHeader(frameData, 0, id, 0)
	return append(head[:], make([]byte, size)...)
}

// sendFrame sends what stands after the header of a buffer made by newFrame, as one DATA frame if credit and
// maxFrameBody let it, as several otherwise. Each is made in place: its header overwrites the end of the one before,
// which has left by then.
func (t *stream) sendFrame(frame []byte, now bool) error {
	for len(frame) > headerSize {
		size, err := t.takeCredit(min(len(frame)-headerSize, maxFrameBody))
		if err != nil {
			return err
		}
		head := encodeHeader(frameData, 0, t.id, uint32(size))
		copy(frame, head[:])
		last := len(frame) == headerSize+size
		if err := t.session.send(frame[:headerSize+size], now && last); err != nil {
			return err
		}
		frame = frame[size:]
	}
	return nil
}

// takeCredit waits for the right to send and takes up to wanted bytes of it. What has gathered leaves before it waits.
func (t *stream) takeCredit(wanted int) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.credit == 0 && t.err == nil {
		t.mu.Unlock()
		err := t.session.flushNow()
		t.mu.Lock()
		if err != nil {
			return 0, err
		}
		if t.credit == 0 && t.err == nil {
			t.changed.Wait()
		}
	}
	if t.err != nil {
		return 0, t.err
	}
	size := min(wanted, int(t.credit))
	t.credit -= uint32(size)
	t.sent += int64(size)
	return size, nil
}

// count makes the stream count from now on, with a receive window of the size given.
func (t *stream) count(window uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mode = counting
	t.ungiven += uint32(len(t.unread))
	t.unread = nil
	if more := int64(window) - int64(t.window); more > 0 {
		t.window = window
		t.session.ask(encodeHeader(frameWindowUpdate, 0, t.id, uint32(more)+t.ungiven))
		t.ungiven = 0
	}
}

// stall makes the stream take nothing more.
func (t *stream) stall() {
	t.mu.Lock()
	t.mode = stalled
	t.mu.Unlock()
}

// expect gives a channel that closes when total bytes have come since the stream opened.
func (t *stream) expect(total int64) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	arrived := make(chan struct{})
	t.awaited, t.arrived = total, arrived
	t.notice()
	return arrived
}

func (t *stream) receivedSoFar() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.received
}

func (t *stream) sentSoFar() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent
}

func (t *stream) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// closeWrite half-closes.
func (t *stream) closeWrite() error {
	t.mu.Lock()
	t.closed = true
	gone := t.eof
	t.mu.Unlock()
	fin := encodeHeader(frameData, flagFIN, t.id, 0)
	err := t.session.send(fin[:], true)
	if gone {
		t.session.forget(t.id)
	}
	return err
}

func (t *stream) reset() {
	t.broken(errReset)
	rst := encodeHeader(frameWindowUpdate, flagRST, t.id, 0)
	t.session.send(rst[:], true)
	t.session.forget(t.id)
}

// readMessage reads one length-prefixed message of at most 8 KiB.
func (t *stream) readMessage() (message, error) {
	data, err := readFramed(t, 8*1024)
	if err != nil {
		return message{}, err
	}
	return decode(data)
}
