package main

// A peer as the relay sees it: it answers identify, ping and STOP, and asks for identify, reservations and circuits.

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const (
	protocolIdentify = "/ipfs/id/1.0.0"
	protocolPing     = "/ipfs/ping/1.0.0"
	protocolHop      = "/libp2p/circuit/relay/0.2.0/hop"
	protocolStop     = "/libp2p/circuit/relay/0.2.0/stop"
	// protocolDirect is spoken between two clients without a relay.
	protocolDirect = "/descord/benchmark/1.0.0"

	hopReserve = 0
	hopConnect = 1
	hopStatus  = 2
	statusOK   = 100

	circuitTimeout = 30 * time.Second
)

var supported = []string{protocolIdentify, protocolPing, protocolStop, protocolDirect}

// client is one identity with one connection.
type client struct {
	*session
	identity ed25519.PrivateKey
	id       []byte
	// incoming has the circuits that others opened to this client, in the order they came.
	incoming chan *stream
	// identified is told when the other side has asked for identify and was answered.
	identified chan struct{}
}

// clientOptions are the workload's choices.
type clientOptions struct {
	eachFrame bool
	source    net.IP
}

func newClient(options clientOptions) (*client, peerOptions, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, peerOptions{}, err
	}
	c := &client{
		identity: key, id: peerID(key.Public().(ed25519.PublicKey)),
		incoming: make(chan *stream, 1024), identified: make(chan struct{}, 1),
	}
	return c, peerOptions{identity: key, serve: c.answer, eachFrame: options.eachFrame, source: options.source}, nil
}

// connect makes a fresh peer and connects it to the relay at a full multiaddr.
func connect(relay string, options clientOptions) (*client, error) {
	address, id, err := parseAddress(relay)
	if err != nil {
		return nil, err
	}
	c, peer, err := newClient(options)
	if err != nil {
		return nil, err
	}
	c.session, err = dial(address, id, peer)
	return c, err
}

// answer serves one stream that the other side opened.
func (c *client) answer(t *stream) {
	protocol, err := answer(t, func(protocol string) bool { return slices.Contains(supported, protocol) })
	if err != nil {
		return
	}
	switch protocol {
	case protocolIdentify:
		t.Write(framed(c.identifyMessage(t.session)))
		t.closeWrite()
		select {
		case c.identified <- struct{}{}:
		default:
		}
	case protocolPing:
		var payload [32]byte
		for {
			if _, err := io.ReadFull(t, payload[:]); err != nil {
				t.closeWrite()
				return
			}
			t.Write(payload[:])
		}
	case protocolStop:
		if _, err := t.readMessage(); err != nil {
			t.reset()
			return
		}
		// StopMessage: type=1 is STATUS 1, status=4.
		t.Write(framed(appendNumber(appendNumber(nil, 1, 1), 4, statusOK)))
		c.incoming <- t
	case protocolDirect:
		c.incoming <- t
	}
}

// identifyMessage is small but complete. The session is the stream's: a relay may ask before connect has returned.
func (c *client) identifyMessage(s *session) []byte {
	m := appendBytes(nil, 1, encodePublicKey(c.identity.Public().(ed25519.PublicKey)))
	m = appendBytes(m, 2, multiaddr(s.tcp.LocalAddr()))
	for _, protocol := range supported {
		m = appendBytes(m, 3, []byte(protocol))
	}
	m = appendBytes(m, 4, multiaddr(s.tcp.RemoteAddr()))
	m = appendBytes(m, 5, []byte("ipfs/0.1.0"))
	return appendBytes(m, 6, []byte("descord-benchmark"))
}

// identify asks who the relay is, as every client does on a new connection.
func (c *client) identify() error {
	t, err := c.openStream(protocolIdentify, nil)
	if err != nil {
		return err
	}
	m, err := t.readMessage()
	if err != nil {
		return fmt.Errorf("identify: %w", err)
	}
	if len(m.bytes[1]) == 0 {
		return errors.New("identify: no public key")
	}
	return t.closeWrite()
}

// reserve asks the relay for a reservation.
func (c *client) reserve() error {
	t, err := c.openStream(protocolHop, framed(appendNumber(nil, 1, hopReserve)))
	if err != nil {
		return err
	}
	if err := hopAnswer(t, "RESERVE"); err != nil {
		return err
	}
	return t.closeWrite()
}

// circuit asks the relay for a circuit to a peer.
func (c *client) circuit(to []byte) (*stream, error) {
	// HopMessage: type=1, peer=2 (id=1).
	request := appendBytes(appendNumber(nil, 1, hopConnect), 2, appendBytes(nil, 1, to))
	t, err := c.openStream(protocolHop, framed(request))
	if err != nil {
		return nil, err
	}
	return t, hopAnswer(t, "CONNECT")
}

// hopAnswer reads the relay's STATUS (HopMessage: type=1, status=5).
func hopAnswer(t *stream, asked string) error {
	m, err := t.readMessage()
	if err != nil {
		return fmt.Errorf("%s: %w", asked, err)
	}
	if m.numbers[1] != hopStatus || m.numbers[5] != statusOK {
		t.reset()
		return fmt.Errorf("%s: the relay answered with status %d", asked, m.numbers[5])
	}
	return nil
}

// pair is a circuit (or a direct stream) with both its ends.
type pair struct {
	dialer, target *stream
}

// openPair opens a circuit and takes its other end. Circuits to one target are opened one after another.
func openPair(dialer, target *client) (pair, error) {
	d, err := dialer.circuit(target.id)
	if err != nil {
		return pair{}, err
	}
	return takePair(d, target)
}

func takePair(d *stream, target *client) (pair, error) {
	select {
	case t := <-target.incoming:
		return pair{d, t}, nil
	case <-time.After(circuitTimeout):
		return pair{}, errors.New("the circuit did not reach its target")
	}
}

// connectPeer connects a client, asks it to identify the relay and, if it is a target, to reserve.
func connectPeer(relay string, options clientOptions, target bool) (*client, error) {
	c, err := connect(relay, options)
	if err != nil {
		return nil, err
	}
	err = c.identify()
	if err == nil && target {
		err = c.reserve()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// openPairs makes n circuits through the relay: all of one dialer and one target, or each of two peers of its own.
func openPairs(relay, targetRelay string, n int, shared bool, options clientOptions) ([]pair, error) {
	pairs := make([]pair, 0, n)
	var dialer, target *client
	var err error
	for range n {
		if target == nil || !shared {
			if target, err = connectPeer(targetRelay, options, true); err != nil {
				return nil, err
			}
			if dialer, err = connectPeer(relay, options, false); err != nil {
				return nil, err
			}
		}
		one, err := openPair(dialer, target)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, one)
	}
	return pairs, nil
}

// openDirect makes n streams between two clients over TCP, with no relay: what the same code costs by itself.
func openDirect(n int, shared bool, options clientOptions) ([]pair, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	pairs := make([]pair, 0, n)
	var dialer, target *client
	for range n {
		if target == nil || !shared {
			if dialer, target, err = directConnection(listener, options); err != nil {
				return nil, err
			}
		}
		d, err := dialer.openStream(protocolDirect, nil)
		if err != nil {
			return nil, err
		}
		one, err := takePair(d, target)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, one)
	}
	return pairs, nil
}

func directConnection(listener net.Listener, options clientOptions) (dialer, target *client, err error) {
	target, accepting, err := newClient(options)
	if err != nil {
		return nil, nil, err
	}
	dialer, dialling, err := newClient(options)
	if err != nil {
		return nil, nil, err
	}
	failed := make(chan error, 1)
	go func() {
		tcp, err := listener.Accept()
		if err == nil {
			target.session, err = upgrade(tcp, false, nil, accepting)
		}
		failed <- err
	}()
	if dialer.session, err = dial(listener.Addr().String(), target.id, dialling); err != nil {
		return nil, nil, err
	}
	return dialer, target, <-failed
}
