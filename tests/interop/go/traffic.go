package main

// The stream protocols that the peers run over a circuit, both sides.
//
//	push      dialer: u64 big-endian count, that many bytes, half-close; listener: SHA-256 of them (32 bytes), close
//	pull      dialer: u64 big-endian count, half-close; listener: that many bytes, their SHA-256, close
//	halfclose dialer: bytes, half-close; listener: reads to the end and only then sends the same bytes back, close
//	stall     the listener accepts and never reads

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	pushProtocol      protocol.ID = "/descord-interop/push/1.0.0"
	pullProtocol      protocol.ID = "/descord-interop/pull/1.0.0"
	halfCloseProtocol protocol.ID = "/descord-interop/halfclose/1.0.0"
	stallProtocol     protocol.ID = "/descord-interop/stall/1.0.0"

	writeSize = 64 * 1024
	countSize = 8
)

// byteSource is xorshift64*: endless pseudo-random bytes of one seed, faster than the link.
type byteSource struct{ state uint64 }

func newByteSource(seed uint64) *byteSource {
	return &byteSource{state: seed*2862933555777941757 + 3037000493 | 1}
}

func (s *byteSource) Read(p []byte) (int, error) {
	n := len(p)
	for len(p) >= countSize {
		binary.LittleEndian.PutUint64(p, s.next())
		p = p[countSize:]
	}
	if len(p) > 0 {
		var last [countSize]byte
		binary.LittleEndian.PutUint64(last[:], s.next())
		copy(p, last[:])
	}
	return n, nil
}

func (s *byteSource) next() uint64 {
	x := s.state
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	s.state = x
	return x * 2685821657736338717
}

// transferred is the outcome of a push or a pull: both ends' hashes of the same bytes.
func transferred(local, remote []byte, started time.Time) fields {
	return fields{
		"sha256_local":  hex.EncodeToString(local),
		"sha256_remote": hex.EncodeToString(remote),
		"seconds":       time.Since(started).Seconds(),
	}
}

// sendBytes writes n bytes of a source in pieces of writeSize and returns their SHA-256.
func sendBytes(w io.Writer, source io.Reader, n int64) ([]byte, error) {
	hash := sha256.New()
	piece := make([]byte, writeSize)
	for n > 0 {
		part := piece[:min(n, writeSize)]
		if _, err := io.ReadFull(source, part); err != nil {
			return nil, err
		}
		hash.Write(part)
		if _, err := w.Write(part); err != nil {
			return nil, err
		}
		n -= int64(len(part))
	}
	return hash.Sum(nil), nil
}

func writeCount(w io.Writer, n uint64) error {
	_, err := w.Write(binary.BigEndian.AppendUint64(nil, n))
	return err
}

func readCount(r io.Reader) (uint64, error) {
	var header [countSize]byte
	_, err := io.ReadFull(r, header[:])
	return binary.BigEndian.Uint64(header[:]), err
}

// --- listener side ---------------------------------------------------------------------------------------------------

func answerPush(s network.Stream) error {
	count, err := readCount(s)
	if err != nil {
		return err
	}
	hash := sha256.New()
	received, err := io.CopyBuffer(hash, s, make([]byte, writeSize))
	emit("push_ended", fields{"peer": s.Conn().RemotePeer().String(), "received": received, "error": text(err)})
	if err != nil {
		return err
	}
	if uint64(received) != count {
		return fmt.Errorf("push announced %d bytes and sent %d", count, received)
	}
	_, err = s.Write(hash.Sum(nil))
	return err
}

func answerPull(s network.Stream) error {
	count, err := readCount(s)
	if err != nil {
		return err
	}
	if extra, err := io.Copy(io.Discard, s); err != nil || extra != 0 {
		return errors.Join(err, fmt.Errorf("%d bytes after the pull request", extra))
	}
	digest, err := sendBytes(s, newByteSource(count), int64(count))
	if err != nil {
		return err
	}
	_, err = s.Write(digest)
	return err
}

func answerHalfClose(s network.Stream) error {
	sent, err := io.ReadAll(s)
	if err != nil {
		return err
	}
	_, err = s.Write(sent)
	return err
}

// listen gives one inbound stream to answer, and resets it when that fails, so that the dialer learns of it.
func listen(answer func(network.Stream) error) network.StreamHandler {
	return func(s network.Stream) {
		if err := answer(s); err != nil {
			fmt.Fprintln(os.Stderr, s.Protocol(), err)
			_ = s.Reset()
			return
		}
		_ = s.Close()
	}
}

// --- dialer side -----------------------------------------------------------------------------------------------------

func push(s network.Stream, count int64, seed uint64) (fields, error) {
	started := time.Now()
	if err := writeCount(s, uint64(count)); err != nil {
		return nil, err
	}
	local, err := sendBytes(s, newByteSource(seed), count)
	if err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	remote, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	return transferred(local, remote, started), nil
}

func pull(s network.Stream, count int64) (fields, error) {
	started := time.Now()
	if err := writeCount(s, uint64(count)); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	hash := sha256.New()
	if _, err := io.CopyBuffer(hash, io.LimitReader(s, count), make([]byte, writeSize)); err != nil {
		return nil, err
	}
	remote, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	return transferred(hash.Sum(nil), remote, started), nil
}

func echoHalfClose(s network.Stream, count int64) (fields, error) {
	sent := make([]byte, count)
	_, _ = newByteSource(uint64(count)).Read(sent)
	if _, err := s.Write(sent); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	echoed, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	return fields{"equal": bytes.Equal(sent, echoed)}, nil
}

// flood writes until the stream or its connection ends; the error is the result, not a failure.
func flood(s network.Stream) (fields, error) {
	if err := writeCount(s, 1<<52); err != nil {
		return fields{"sent": 0, "error": err.Error()}, nil
	}
	source := newByteSource(1)
	piece := make([]byte, writeSize)
	var sent int64
	for {
		_, _ = source.Read(piece)
		n, err := s.Write(piece)
		sent += int64(n)
		if err != nil {
			return fields{"sent": sent, "error": err.Error()}, nil
		}
	}
}

// stall writes at most count bytes to a listener that never reads, until nothing has moved for quiet.
func stall(s network.Stream, count int64, quiet time.Duration) (fields, error) {
	source := newByteSource(2)
	piece := make([]byte, writeSize)
	var sent int64
	for sent < count {
		part := piece[:min(count-sent, writeSize)]
		_, _ = source.Read(part)
		_ = s.SetWriteDeadline(time.Now().Add(quiet))
		n, err := s.Write(part)
		sent += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) || (err != nil && isTimeout(err)) {
			return fields{"sent": sent, "blocked": true, "error": err.Error()}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return fields{"sent": sent, "blocked": false}, nil
}

func isTimeout(err error) bool {
	var timed interface{ Timeout() bool }
	return errors.As(err, &timed) && timed.Timeout()
}
