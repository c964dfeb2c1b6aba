package main

// Yamux over the secured channel. One goroutine reads, opens and hands each piece of a body to its stream's sink where
// it lies; one writes what has gathered. A frame is sealed when it is made, as Noise messages of its own, into a 64 KiB
// buffer that is written when the program would otherwise wait: small writes of one moment share a system call, as
// they do under load in any client whose socket is busy.

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

const (
	frameData byte = iota
	frameWindow
	framePing
	frameGoAway
)

const (
	flagSYN uint16 = 1 << iota
	flagACK
	flagFIN
	flagRST
)

const (
	headerSize  = 12
	firstWindow = 256 << 10
	writeBuffer = 64 << 10
)

var (
	errClosed = errors.New("connection closed")
	errReset  = errors.New("stream reset")
)

// A session is one connection's streams.
type session struct {
	tcp    net.Conn
	in     *opener
	sealer *sealer
	window uint32 // what a receiving stream raises its window to
	accept func(*stream)

	mu      sync.Mutex
	out     []byte // sealed, not yet written
	plain   []byte
	some    *sync.Cond // something to write
	room    *sync.Cond // the buffer was taken
	streams map[uint32]*stream
	nextID  uint32
	err     error

	header   [headerSize]byte
	have     int
	body     *stream // whose body is arriving; nil for one that is gone
	left     uint32
	bodyEnds bool // FIN came with it
}

// A stream is used by one goroutine that reads or by its sink, never both.
type stream struct {
	session *session
	id      uint32
	changed *sync.Cond
	credit  uint32 // what we may send
	window  uint32 // what we let the other send at most
	unacked uint32 // of that, received and not given back
	got     []byte
	sink    func([]byte) // called by the reading goroutine with each piece, which is valid during the call
	stalled bool         // nothing is given back
	ended   bool         // the other side sent FIN
	closed  bool         // we sent FIN
	err     error
	arrived uint64 // bytes of data
}

// newSession negotiates yamux and starts. accept gets every stream that the other side opens, in a goroutine of its own.
func newSession(tcp net.Conn, sealing *sealer, in *opener, initiator bool, window uint32, accept func(*stream)) (*session, error) {
	s := &session{tcp: tcp, in: in, sealer: sealing, window: window, accept: accept, streams: map[uint32]*stream{}, nextID: 2}
	s.some, s.room = sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	rw := struct {
		io.Reader
		io.Writer
	}{in, sealedWriter{s}}
	if initiator {
		s.nextID = 1
		if err := propose(rw, "/yamux/1.0.0"); err != nil {
			return nil, err
		}
	} else if _, err := settle(rw, func(protocol string) bool { return protocol == "/yamux/1.0.0" }); err != nil {
		return nil, err
	}
	go s.write()
	go s.read()
	return s, nil
}

// sealedWriter is what multistream-select writes to before yamux begins.
type sealedWriter struct{ s *session }

func (w sealedWriter) Write(p []byte) (int, error) {
	_, err := w.s.tcp.Write(w.s.sealer.seal(nil, p))
	return len(p), err
}

func (s *session) write() {
	var spare []byte
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.out) == 0 && s.err == nil {
			s.some.Wait()
		}
		if len(s.out) == 0 {
			return
		}
		taken := s.out
		s.out = spare[:0]
		s.room.Broadcast()
		s.mu.Unlock()
		_, err := s.tcp.Write(taken)
		spare = taken
		s.mu.Lock()
		if err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *session) read() {
	for {
		message, err := s.in.next()
		if err == nil {
			err = s.receive(message)
		}
		if err != nil {
			s.mu.Lock()
			s.fail(err)
			s.mu.Unlock()
			s.tcp.Close()
			return
		}
	}
}

// fail wakes everyone who waits. The caller holds the lock.
func (s *session) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	for _, one := range s.streams {
		one.changed.Broadcast()
	}
	s.some.Broadcast()
	s.room.Broadcast()
}

func (s *session) close() {
	s.mu.Lock()
	s.fail(errClosed)
	s.mu.Unlock()
	s.tcp.Close()
}

// put seals a frame into the buffer. The caller holds the lock.
func (s *session) put(kind byte, flags uint16, id, length uint32, body []byte) {
	s.plain = append(s.plain[:0], 0, kind, byte(flags>>8), byte(flags))
	s.plain = binary.BigEndian.AppendUint32(s.plain, id)
	s.plain = binary.BigEndian.AppendUint32(s.plain, length)
	s.plain = append(s.plain, body...)
	if len(s.out) == 0 {
		s.some.Signal()
	}
	s.out = s.sealer.seal(s.out, s.plain)
}

func (s *session) newStream(id uint32) *stream {
	one := &stream{session: s, id: id, credit: firstWindow, window: firstWindow}
	one.changed = sync.NewCond(&s.mu)
	s.streams[id] = one
	return one
}

func (s *session) open(protocol string) (*stream, error) {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	one := s.newStream(s.nextID)
	s.nextID += 2
	s.put(frameWindow, flagSYN, one.id, 0, nil)
	s.mu.Unlock()
	return one, propose(one, protocol)
}

func (s *session) receive(p []byte) error {
	for len(p) > 0 {
		if s.left == 0 {
			n := copy(s.header[s.have:], p)
			p = p[n:]
			if s.have += n; s.have == headerSize {
				s.have = 0
				if err := s.frame(); err != nil {
					return err
				}
			}
			continue
		}
		piece := p[:min(len(p), int(s.left))]
		p = p[len(piece):]
		s.left -= uint32(len(piece))
		if s.body != nil {
			s.body.deliver(piece)
			if s.left == 0 && s.bodyEnds {
				s.mu.Lock()
				s.body.end(nil)
				s.mu.Unlock()
			}
		}
	}
	return nil
}

// frame acts on a header that is whole.
func (s *session) frame() error {
	kind := s.header[1]
	flags := binary.BigEndian.Uint16(s.header[2:])
	id := binary.BigEndian.Uint32(s.header[4:])
	length := binary.BigEndian.Uint32(s.header[8:])
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case framePing:
		if flags&flagSYN != 0 {
			s.put(framePing, flagACK, 0, length, nil)
		}
		return nil
	case frameGoAway:
		return nil
	case frameData, frameWindow:
	default:
		return errMalformed
	}
	one := s.streams[id]
	if flags&flagSYN != 0 && one == nil {
		one = s.newStream(id)
		s.put(frameWindow, flagACK, id, 0, nil)
		go s.accept(one)
	}
	if kind == frameData {
		s.left, s.body, s.bodyEnds = length, one, flags&flagFIN != 0
		if one != nil {
			one.arrived += uint64(length)
		}
	}
	if one == nil {
		return nil
	}
	if kind == frameWindow {
		one.credit += length
		one.changed.Broadcast()
	}
	if flags&flagRST != 0 {
		one.end(errReset)
	} else if flags&flagFIN != 0 && (kind == frameWindow || length == 0) {
		one.end(nil)
	}
	return nil
}

// end is told by the other side. The caller holds the lock.
func (one *stream) end(err error) {
	one.ended = true
	if err != nil {
		one.err = err
	}
	one.forget()
	one.changed.Broadcast()
}

func (one *stream) forget() {
	if one.ended && one.closed || one.err != nil {
		delete(one.session.streams, one.id)
	}
}

// deliver takes a piece of the body and gives the window back by halves.
func (one *stream) deliver(piece []byte) {
	if one.sink != nil {
		one.sink(piece)
	}
	s := one.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.stalled {
		return
	}
	if one.sink == nil {
		one.got = append(one.got, piece...)
		one.changed.Broadcast()
	}
	one.unacked += uint32(len(piece))
	if one.unacked >= one.window/2 && one.err == nil {
		back := one.unacked
		if one.window < s.window {
			back += s.window - one.window
			one.window = s.window
		}
		one.unacked = 0
		s.put(frameWindow, 0, one.id, back, nil)
	}
}

// deliverTo gives everything from now on to sink.
func (one *stream) deliverTo(sink func([]byte)) {
	one.session.mu.Lock()
	defer one.session.mu.Unlock()
	if len(one.got) > 0 {
		panic("data came before the workload began")
	}
	one.sink = sink
}

// stall reads no more, and counts what arrives from now on.
func (one *stream) stall() {
	one.session.mu.Lock()
	defer one.session.mu.Unlock()
	one.stalled, one.arrived = true, 0
}

func (one *stream) failed() error {
	if one.err != nil {
		return one.err
	}
	return one.session.err
}

// Write sends p as one frame, when the window and the buffer have room for all of it.
func (one *stream) Write(p []byte) (int, error) {
	s := one.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := one.failed(); err != nil {
			return 0, err
		}
		if one.credit < uint32(len(p)) {
			one.changed.Wait()
		} else if len(s.out) >= writeBuffer {
			s.room.Wait()
		} else {
			break
		}
	}
	one.credit -= uint32(len(p))
	s.put(frameData, 0, one.id, uint32(len(p)), p)
	return len(p), nil
}

// reply sends p at once from within a sink, which must not wait. Only for exchanges far below the window.
func (one *stream) reply(p []byte) {
	s := one.session
	s.mu.Lock()
	defer s.mu.Unlock()
	one.credit -= uint32(len(p))
	s.put(frameData, 0, one.id, uint32(len(p)), p)
}

func (one *stream) Read(p []byte) (int, error) {
	s := one.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(one.got) == 0 {
		if one.ended && one.err == nil {
			return 0, io.EOF
		}
		if err := one.failed(); err != nil {
			return 0, err
		}
		one.changed.Wait()
	}
	n := copy(p, one.got)
	if one.got = one.got[n:]; len(one.got) == 0 {
		one.got = nil
	}
	return n, nil
}

func (one *stream) finish() {
	s := one.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if !one.closed && one.failed() == nil {
		one.closed = true
		s.put(frameWindow, flagFIN, one.id, 0, nil)
		one.forget()
	}
}

// waitEnd returns when the other side has ended the stream.
func (one *stream) waitEnd() error {
	one.session.mu.Lock()
	defer one.session.mu.Unlock()
	for !one.ended && one.failed() == nil {
		one.changed.Wait()
	}
	return one.failed()
}
