package main

// One connection to a relay (or, for the direct comparison, to another client): TCP, Noise and yamux.
//
// One goroutine reads: a large read, every Noise message in it opened in place, every frame handed to its stream.
// Writers seal whole frames straight into the outbound buffer. As in go-libp2p each yamux frame is sealed by itself (a
// frame of more than 65519 bytes is two Noise messages); unlike there, frames leave together in one TCP write of up to
// writeSize bytes unless the session is told to write each by itself.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
)

const (
	frameData = iota
	frameWindowUpdate
	framePing
	frameGoAway
)

const (
	flagSYN = 1 << iota
	flagACK
	flagFIN
	flagRST
)

const (
	headerSize = 12
	// What either side of a stream may send before the first window update.
	firstWindow = 256 * 1024
	// Bytes gathered before a TCP write, and the most that one read takes.
	writeSize = 64 * 1024
	readSize  = 256 * 1024
	// A connection that carries nothing holds no more than this.
	idleReadSize = 2 * 1024
)

var (
	errClosed = errors.New("the connection is closed")
	errReset  = errors.New("the stream was reset")
)

type header [headerSize]byte

func encodeHeader(kind byte, flags uint16, stream, length uint32) (h header) {
	h[1] = kind
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint32(h[4:], stream)
	binary.BigEndian.PutUint32(h[8:], length)
	return h
}

// session is a connection. Its fields above the first mutex are set once.
type session struct {
	tcp  net.Conn
	open *halfCipher
	peer []byte
	// serve takes each stream that the other side opens, in a goroutine of its own.
	serve func(*stream)
	// eachFrame writes every frame to TCP by itself.
	eachFrame bool

	writing sync.Mutex
	seal    *halfCipher
	out     []byte

	// Frames that the reader wants sent. It never writes: a relay that stops reading must not stop us from reading.
	asking   sync.Mutex
	asked    []byte
	flushing bool

	table   sync.Mutex
	streams map[uint32]*stream
	nextID  uint32
	err     error

	// The reader's own: the frame whose header came in part, and the one whose body did (and the flags to heed after it).
	partial   []byte
	body      uint32
	bodyOf    *stream
	bodyFlags uint16
}

func (s *session) read(first []byte) {
	s.fail(func() error {
		if err := s.frames(first); err != nil {
			return err
		}
		buffer := make([]byte, idleReadSize)
		from, to := 0, 0
		for {
			n, err := s.tcp.Read(buffer[to:])
			if err != nil {
				return err
			}
			to += n
			needed := 2
			for to-from >= 2 {
				size := int(binary.BigEndian.Uint16(buffer[from:]))
				if to-from-2 < size {
					needed = size + 2
					break
				}
				plaintext, err := s.open.open(buffer[from+2 : from+2+size])
				if err != nil {
					return err
				}
				if err := s.frames(plaintext); err != nil {
					return err
				}
				from += 2 + size
			}
			full := to == len(buffer)
			to = copy(buffer, buffer[from:to])
			from = 0
			if len(buffer) < readSize && (full || needed > len(buffer)) {
				grown := make([]byte, min(readSize, max(needed, 4*len(buffer))))
				copy(grown, buffer[:to])
				buffer = grown
			}
		}
	}())
}

// frames takes the next plaintext, which may begin and end anywhere in a frame.
func (s *session) frames(data []byte) error {
	for len(data) > 0 {
		if s.body > 0 {
			size := min(uint32(len(data)), s.body)
			s.body -= size
			if s.bodyOf != nil {
				s.bodyOf.deliver(data[:size])
				if s.body == 0 {
					s.bodyOf.heed(s.bodyFlags)
				}
			}
			data = data[size:]
			continue
		}
		head := data
		if missing := headerSize - len(s.partial); len(s.partial) > 0 || len(data) < headerSize {
			size := min(len(data), missing)
			s.partial = append(s.partial, data[:size]...)
			data = data[size:]
			if len(s.partial) < headerSize {
				return nil
			}
			head, s.partial = s.partial, s.partial[:0]
		} else {
			data = data[headerSize:]
		}
		if err := s.frame(head); err != nil {
			return err
		}
	}
	return nil
}

// frame takes one header. The body of a data frame follows it.
func (s *session) frame(head []byte) error {
	flags := binary.BigEndian.Uint16(head[2:])
	id := binary.BigEndian.Uint32(head[4:])
	length := binary.BigEndian.Uint32(head[8:])
	switch head[1] {
	case framePing:
		if flags&flagSYN != 0 {
			s.ask(encodeHeader(framePing, flagACK, 0, length))
		}
		return nil
	case frameGoAway:
		return fmt.Errorf("%w: the other side said good-bye with code %d", errClosed, length)
	case frameData, frameWindowUpdate:
	default:
		return fmt.Errorf("a frame of type %d", head[1])
	}
	one := s.find(id, flags)
	if head[1] == frameData && length > 0 {
		s.body, s.bodyOf, s.bodyFlags = length, one, flags
		return nil
	}
	if one == nil {
		return nil
	}
	// In a frame with RST the length is an error code.
	if head[1] == frameWindowUpdate && flags&flagRST == 0 {
		one.allow(length)
	}
	one.heed(flags)
	return nil
}

// find gives the stream of a frame, a new one if the frame opens it, nil for one that is gone.
func (s *session) find(id uint32, flags uint16) *stream {
	s.table.Lock()
	defer s.table.Unlock()
	one := s.streams[id]
	if one == nil && flags&flagSYN != 0 && s.err == nil {
		one = newStream(s, id)
		s.streams[id] = one
		s.ask(encodeHeader(frameWindowUpdate, flagACK, id, 0))
		go s.serve(one)
	}
	return one
}

func (s *session) forget(id uint32) {
	s.table.Lock()
	delete(s.streams, id)
	s.table.Unlock()
}

// openStream opens a stream and negotiates its protocol. rest is sent with the proposal.
func (s *session) openStream(protocol string, rest []byte) (*stream, error) {
	s.table.Lock()
	if s.err != nil {
		s.table.Unlock()
		return nil, s.err
	}
	one := newStream(s, s.nextID)
	s.streams[s.nextID] = one
	s.nextID += 2
	s.table.Unlock()
	s.ask(encodeHeader(frameWindowUpdate, flagSYN, one.id, 0))
	if err := propose(one, protocol, rest); err != nil {
		one.reset()
		return nil, err
	}
	return one, nil
}

// ask sends a control frame without ever blocking the caller.
func (s *session) ask(h header) {
	s.asking.Lock()
	s.asked = append(s.asked, h[:]...)
	start := !s.flushing
	s.flushing = true
	s.asking.Unlock()
	if start {
		go s.flushAsked()
	}
}

func (s *session) flushAsked() {
	for {
		s.writing.Lock()
		empty := s.sealAsked()
		err := s.flush()
		s.writing.Unlock()
		if err != nil {
			s.fail(err)
			return
		}
		if empty {
			return
		}
	}
}

// sealAsked seals what was asked for, each frame by itself, and tells whether that was nothing. Called while writing.
func (s *session) sealAsked() bool {
	s.asking.Lock()
	defer s.asking.Unlock()
	if len(s.asked) == 0 {
		s.flushing = false
		return true
	}
	for at := 0; at < len(s.asked); at += headerSize {
		s.out = s.seal.seal(s.out, s.asked[at:at+headerSize])
	}
	s.asked = s.asked[:0]
	return false
}

// send seals one frame; it leaves at once if it must, or when enough has gathered.
func (s *session) send(frame []byte, now bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	// A stream's opening frame was asked for: it goes first.
	s.asking.Lock()
	waiting := len(s.asked) > 0
	s.asking.Unlock()
	if waiting {
		s.sealAsked()
	}
	s.out = s.seal.seal(s.out, frame)
	if now || s.eachFrame || len(s.out) >= writeSize {
		return s.flush()
	}
	return nil
}

// flush writes what has gathered. Called while writing.
func (s *session) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.tcp.Write(s.out)
	s.out = s.out[:0]
	return err
}

func (s *session) flushNow() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.flush()
}

// close says good-bye and ends the connection.
func (s *session) close() {
	goodbye := encodeHeader(frameGoAway, 0, 0, 0)
	s.send(goodbye[:], true)
	s.fail(errClosed)
}

// fail ends the connection and everything on it, once.
func (s *session) fail(err error) {
	s.table.Lock()
	if s.err != nil {
		s.table.Unlock()
		return
	}
	s.err = err
	streams := s.streams
	s.streams = map[uint32]*stream{}
	s.table.Unlock()
	s.tcp.Close()
	for _, one := range streams {
		one.broken(err)
	}
}

func (s *session) failure() error {
	s.table.Lock()
	defer s.table.Unlock()
	return s.err
}
