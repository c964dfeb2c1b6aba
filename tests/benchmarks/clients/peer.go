package main

// A libp2p peer as a relay sees it: connects, identifies itself when asked, reserves, opens circuits and accepts them.

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	hopProtocol      = "/libp2p/circuit/relay/0.2.0/hop"
	stopProtocol     = "/libp2p/circuit/relay/0.2.0/stop"
	identifyProtocol = "/ipfs/id/1.0.0"
	pushProtocol     = "/ipfs/id/push/1.0.0"
	pingProtocol     = "/ipfs/ping/1.0.0"

	statusOK = 100
	patience = 30 * time.Second
)

type peer struct {
	key     ed25519.PrivateKey
	session *session
	opened  chan *stream  // circuits to this peer, accepted
	asked   chan struct{} // closed when the relay has read our identify message
	once    sync.Once
}

// relayAddress reads /ip4/A/tcp/P/p2p/ID.
func relayAddress(text string) (string, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 5 || parts[1] != "ip4" || parts[3] != "tcp" {
		return "", fmt.Errorf("--relay wants /ip4/ADDRESS/tcp/PORT/p2p/ID, not %q", text)
	}
	return net.JoinHostPort(parts[2], parts[4]), nil
}

// dial connects a new peer to address. With an origin it comes from 127.x.y.z, one address for each number.
func dial(address string, window uint32, origin int) (*peer, error) {
	dialer := net.Dialer{Timeout: patience}
	if origin > 0 {
		host := net.IPv4(127, byte(1+origin>>16), byte(origin>>8), byte(origin))
		dialer.LocalAddr = &net.TCPAddr{IP: host}
	}
	tcp, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return newPeer(tcp, true, window)
}

func newPeer(tcp net.Conn, initiator bool, window uint32) (*peer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &peer{key: key, opened: make(chan *stream, 1024), asked: make(chan struct{})}
	_ = tcp.SetDeadline(time.Now().Add(patience))
	sealing, in, err := secure(tcp, key, initiator)
	if err == nil {
		p.session, err = newSession(tcp, sealing, in, initiator, window, p.serve)
	}
	if err != nil {
		tcp.Close()
		return nil, err
	}
	_ = tcp.SetDeadline(time.Time{})
	return p, nil
}

func (p *peer) public() ed25519.PublicKey { return p.key.Public().(ed25519.PublicKey) }

// serve answers a stream that the other side opened. A failure ends that stream and no workload that does not use it.
func (p *peer) serve(s *stream) {
	protocol, err := settle(s, func(protocol string) bool {
		switch protocol {
		case stopProtocol, identifyProtocol, pushProtocol, pingProtocol, directProtocol:
			return true
		}
		return false
	})
	if err != nil {
		s.finish()
		return
	}
	switch protocol {
	case stopProtocol:
		if p.acceptCircuit(s) == nil {
			p.opened <- s
		}
		return
	case directProtocol:
		p.opened <- s
		return
	case identifyProtocol:
		_ = writeMessage(s, p.identification())
		s.finish()
		_ = s.waitEnd()
		p.once.Do(func() { close(p.asked) })
		return
	case pushProtocol:
		_, _ = readMessage(s)
	case pingProtocol:
		one := make([]byte, 32)
		for {
			n, err := s.Read(one)
			if err != nil {
				break
			}
			if _, err := s.Write(one[:n]); err != nil {
				break
			}
		}
	}
	s.finish()
}

func (p *peer) identification() []byte {
	message := appendBytes(nil, 1, identityKey(p.public()))
	for _, protocol := range []string{stopProtocol, identifyProtocol, pushProtocol, pingProtocol} {
		message = appendBytes(message, 3, []byte(protocol))
	}
	message = appendBytes(message, 5, []byte("ipfs/0.1.0"))
	return appendBytes(message, 6, []byte("descord-relay-clients/0.1.0"))
}

// acceptCircuit reads the relay's StopMessage CONNECT and answers STATUS OK; after it the stream is the circuit.
func (p *peer) acceptCircuit(s *stream) error {
	if _, err := readMessage(s); err != nil {
		return err
	}
	return writeMessage(s, appendNumber(appendNumber(nil, 1, 1), 4, statusOK))
}

// askIdentify reads the relay's own identification.
func (p *peer) askIdentify() error {
	s, err := p.session.open(identifyProtocol)
	if err != nil {
		return err
	}
	message, err := readMessage(s)
	if err == nil && len(message) == 0 {
		err = errors.New("the relay's identification is empty")
	}
	s.finish()
	return err
}

// hop sends one HopMessage and reads the status of the answer.
func (p *peer) hop(request []byte) (*stream, error) {
	s, err := p.session.open(hopProtocol)
	if err != nil {
		return nil, err
	}
	if err := writeMessage(s, request); err != nil {
		return nil, err
	}
	answer, err := readMessage(s)
	if err != nil {
		return nil, err
	}
	status := uint64(0)
	if err := parse(answer, func(field int, number uint64, _ []byte) {
		if field == 5 {
			status = number
		}
	}); err != nil {
		return nil, err
	}
	if status != statusOK {
		return nil, fmt.Errorf("the relay answered with status %d", status)
	}
	return s, nil
}

func (p *peer) reserve() error {
	s, err := p.hop(appendNumber(nil, 1, 0))
	if err == nil {
		s.finish()
	}
	return err
}

// A circuit has both its ends here.
type circuit struct{ source, target *stream }

// connect opens a circuit to target and gives both ends of it.
func (p *peer) connect(target *peer) (circuit, error) {
	request := appendBytes(appendNumber(nil, 1, 1), 2, appendBytes(nil, 1, peerID(target.public())))
	source, err := p.hop(request)
	if err != nil {
		return circuit{}, err
	}
	select {
	case accepted := <-target.opened:
		return circuit{source, accepted}, nil
	case <-time.After(patience):
		return circuit{}, errors.New("the target saw no circuit")
	}
}
