package main

// From a TCP connection to a session: multistream-select, Noise, multistream-select inside it, yamux.

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// A relay that is not through with a connection by then is not waited for.
const dialTimeout = 30 * time.Second

// peerOptions say who a client is and how it writes.
type peerOptions struct {
	identity  ed25519.PrivateKey
	serve     func(*stream)
	eachFrame bool
	// source is the address to dial from, nil for any.
	source net.IP
}

// dial connects to a relay and proves it to be the one wanted.
func dial(address string, wanted []byte, options peerOptions) (*session, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if options.source != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: options.source}
	}
	tcp, err := dialer.Dial("tcp4", address)
	if err != nil {
		return nil, err
	}
	s, err := upgrade(tcp, true, wanted, options)
	if err != nil {
		tcp.Close()
	}
	return s, err
}

// upgrade negotiates Noise and yamux and starts the session.
func upgrade(tcp net.Conn, initiator bool, wanted []byte, options peerOptions) (*session, error) {
	tcp.SetDeadline(time.Now().Add(dialTimeout))
	negotiate := func(over io.ReadWriter, protocol string) error {
		if initiator {
			return propose(over, protocol, nil)
		}
		_, err := answer(over, func(proposed string) bool { return proposed == protocol })
		return err
	}
	if err := negotiate(tcp, "/noise"); err != nil {
		return nil, fmt.Errorf("negotiating Noise: %w", err)
	}
	secure, err := handshake(tcp, options.identity, initiator, wanted)
	if err != nil {
		return nil, fmt.Errorf("Noise: %w", err)
	}
	channel := &channel{tcp: tcp, secured: secure}
	if err := negotiate(channel, "/yamux/1.0.0"); err != nil {
		return nil, fmt.Errorf("negotiating yamux: %w", err)
	}
	tcp.SetDeadline(time.Time{})
	s := &session{
		tcp: tcp, open: secure.open, seal: secure.seal, peer: secure.peer,
		serve: options.serve, eachFrame: options.eachFrame,
		streams: map[uint32]*stream{}, nextID: 2,
	}
	if initiator {
		s.nextID = 1
	}
	go s.read(channel.unread)
	return s, nil
}

// channel is a Noise connection before yamux runs on it.
type channel struct {
	tcp net.Conn
	secured
	unread []byte
}

func (c *channel) Write(data []byte) (int, error) {
	_, err := c.tcp.Write(c.seal.seal(nil, data))
	return len(data), err
}

func (c *channel) Read(into []byte) (int, error) {
	for len(c.unread) == 0 {
		var size [2]byte
		if _, err := io.ReadFull(c.tcp, size[:]); err != nil {
			return 0, err
		}
		body := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c.tcp, body); err != nil {
			return 0, err
		}
		plaintext, err := c.open.open(body)
		if err != nil {
			return 0, err
		}
		c.unread = plaintext
	}
	n := copy(into, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}
