package main

// The commands of the control protocol, in terms of a go-libp2p host.

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
)

const patience = 30 * time.Second

type interopPeer struct {
	host host.Host
	raw  rawCircuits
	dht  *dht.IpfsDHT // once it is wanted

	autonat *autonatv2.AutoNAT // once it is wanted

	mu         sync.Mutex
	identified map[peer.ID]event.EvtPeerIdentificationCompleted
	told       chan struct{} // closed and replaced at each identification
}

func newPeer(h host.Host) (*interopPeer, error) {
	p := &interopPeer{
		host:       h,
		identified: map[peer.ID]event.EvtPeerIdentificationCompleted{},
		told:       make(chan struct{}),
	}
	watch(h)
	if err := remember(h, p.learn); err != nil {
		return nil, err
	}
	h.SetStreamHandler(pushProtocol, listen(answerPush))
	h.SetStreamHandler(pullProtocol, listen(answerPull))
	h.SetStreamHandler(halfCloseProtocol, listen(answerHalfClose))
	// Neither read nor closed: its bytes stay in the window until the connection ends.
	h.SetStreamHandler(stallProtocol, func(network.Stream) {})
	return p, nil
}

func (p *interopPeer) commands() map[string]handler {
	return map[string]handler{
		"reserve":         p.reserve,
		"refresh":         p.reserve,
		"connect":         p.connect,
		"ping":            p.ping,
		"disconnect":      p.disconnect,
		"connections":     p.connections,
		"listen":          p.listen,
		"identify":        p.identify,
		"punching":        p.punching,
		"ask":             p.ask,
		"hop_raw":         p.hopRaw,
		"raw_push":        p.rawPush,
		"raw_close":       p.rawClose,
		"raw_end":         p.rawEnd,
		"stop_raw":        p.stopRaw,
		"mdns":            p.startMDNS,
		"autonat":         p.startAutonat,
		"reach":           p.reach,
		"dht_join":        p.joinDHT,
		"dht_peers":       p.dhtPeers,
		"provide":         p.provide,
		"find":            p.find,
		"send":            p.onStream(pushProtocol, func(s network.Stream, c command) (fields, error) { return push(s, c.Bytes, c.Seed) }),
		"fetch":           p.onStream(pullProtocol, func(s network.Stream, c command) (fields, error) { return pull(s, c.Bytes) }),
		"echo_half_close": p.onStream(halfCloseProtocol, func(s network.Stream, c command) (fields, error) { return echoHalfClose(s, c.Bytes) }),
		"flood":           p.onStream(pushProtocol, func(s network.Stream, _ command) (fields, error) { return flood(s) }),
		"stall": p.onStream(stallProtocol, func(s network.Stream, c command) (fields, error) {
			quiet := 2 * time.Second
			if c.Quiet > 0 {
				quiet = time.Duration(c.Quiet * float64(time.Second))
			}
			return stall(s, c.Bytes, quiet)
		}),
	}
}

// reserve asks for a slot, or again for the one it has: the library's client has one call for both.
func (p *interopPeer) reserve(c command) (fields, error) {
	relay, err := peer.AddrInfoFromString(c.Relay)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.forgetFailures(relay.ID)
	if err := p.host.Connect(ctx, *relay); err != nil {
		return nil, err
	}
	p.host.ConnManager().Protect(relay.ID, "reservation")
	granted, err := client.Reserve(ctx, p.host, *relay)
	if err != nil {
		return nil, err
	}
	return fields{
		"expires":        granted.Expiration.Unix(),
		"addrs":          texts(granted.Addrs),
		"limit_data":     granted.LimitData,
		"limit_duration": int64(granted.LimitDuration / time.Second),
		"voucher":        granted.Voucher != nil,
	}, nil
}

func (p *interopPeer) connect(c command) (fields, error) {
	target, err := peer.AddrInfoFromString(c.Addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(onCircuits(), patience)
	defer cancel()
	p.forgetFailures(target.ID)
	p.host.Peerstore().ClearAddrs(target.ID)
	if err := p.host.Connect(ctx, *target); err != nil {
		return nil, err
	}
	for _, connection := range p.host.Network().ConnsToPeer(target.ID) {
		return fields{
			"relayed": isCircuit(connection.RemoteMultiaddr()),
			"limited": connection.Stat().Limited,
			"peer":    target.ID.String(),
		}, nil
	}
	return nil, fmt.Errorf("connected to %s and lost it at once", target.ID)
}

// forgetFailures lifts the pause that the library puts after a failed dial: a test says itself when to try again.
func (p *interopPeer) forgetFailures(id peer.ID) {
	if network, ok := p.host.Network().(*swarm.Swarm); ok {
		network.Backoff().Clear(id)
	}
}

// punching waits until the library answers /libp2p/dcutr: it does once somebody has said where this peer is seen.
func (p *interopPeer) punching(command) (fields, error) {
	changes, err := p.host.EventBus().Subscribe(new(event.EvtLocalProtocolsUpdated))
	if err != nil {
		return nil, err
	}
	defer changes.Close()
	timeout := time.After(patience)
	for !slices.Contains(p.host.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-changes.Out():
		case <-timeout:
			return nil, fmt.Errorf("no hole punching: nobody says where this peer is seen")
		}
	}
	return nil, nil
}

func (p *interopPeer) ping(c command) (fields, error) {
	id, err := peer.Decode(c.Peer)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(onCircuits(), patience)
	defer cancel()
	result, open := <-ping.Ping(ctx, p.host, id)
	if !open {
		return nil, ctx.Err()
	}
	if result.Error != nil {
		return nil, result.Error
	}
	return fields{"rtt_ms": float64(result.RTT) / float64(time.Millisecond)}, nil
}

// onStream makes a command of something that is done with one new stream to c.Peer.
func (p *interopPeer) onStream(id protocol.ID, use func(network.Stream, command) (fields, error)) handler {
	return func(c command) (fields, error) {
		target, err := peer.Decode(c.Peer)
		if err != nil {
			return nil, err
		}
		// A stream is asked for where a connection is: the peer never dials here.
		ctx, cancel := context.WithTimeout(network.WithNoDial(onCircuits(), "connect is its own command"), patience)
		defer cancel()
		s, err := p.host.NewStream(ctx, target, id)
		if err != nil {
			return nil, err
		}
		result, err := use(s, c)
		if err != nil {
			_ = s.Reset()
			return nil, err
		}
		if c.Cmd != "stall" {
			_ = s.Close()
		}
		return result, nil
	}
}

// ask says something by any protocol, and tells what the other end says to it before it ends the stream.
func (p *interopPeer) ask(c command) (fields, error) {
	data, err := hex.DecodeString(c.Data)
	if err != nil {
		return nil, err
	}
	said := []byte{}
	use := func(s network.Stream, _ command) (fields, error) {
		if _, err := s.Write(data); err != nil {
			return nil, err
		}
		if err := s.CloseWrite(); err != nil {
			return nil, err
		}
		said, err = io.ReadAll(s)
		return nil, err
	}
	_, err = p.onStream(protocol.ID(c.Protocol), use)(c)
	if err != nil && strings.Contains(err.Error(), "protocols not supported") {
		return fields{"spoken": false, "said": ""}, nil
	}
	return fields{"spoken": true, "said": hex.EncodeToString(said)}, err
}

func (p *interopPeer) disconnect(c command) (fields, error) {
	id, err := peer.Decode(c.Peer)
	if err != nil {
		return nil, err
	}
	return fields{}, p.host.Network().ClosePeer(id)
}

func (p *interopPeer) connections(command) (fields, error) {
	list := []fields{}
	for _, connection := range p.host.Network().Conns() {
		list = append(list, fields{
			"peer":      connection.RemotePeer().String(),
			"addr":      connection.RemoteMultiaddr().String(),
			"relayed":   isCircuit(connection.RemoteMultiaddr()),
			"limited":   connection.Stat().Limited,
			"direction": strings.ToLower(connection.Stat().Direction.String()),
			"streams":   len(connection.GetStreams()),
		})
	}
	return fields{"connections": list}, nil
}

func (p *interopPeer) listen(c command) (fields, error) {
	address, err := multiaddr.NewMultiaddr(c.Addr)
	if err != nil {
		return nil, err
	}
	if err := p.host.Network().Listen(address); err != nil {
		return nil, err
	}
	addresses, err := p.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil, err
	}
	own := []string{}
	for _, one := range addresses {
		if !isCircuit(one) {
			own = append(own, one.String()+"/p2p/"+p.host.ID().String())
		}
	}
	return fields{"addrs": own}, nil
}

func (p *interopPeer) learn(one event.EvtPeerIdentificationCompleted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.identified[one.Peer] = one
	close(p.told)
	p.told = make(chan struct{})
}

// identify tells what the library learnt of a connected peer, and waits for it when the connection is new.
func (p *interopPeer) identify(c command) (fields, error) {
	id, err := peer.Decode(c.Peer)
	if err != nil {
		return nil, err
	}
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		known, found := p.identified[id]
		told := p.told
		p.mu.Unlock()
		if found {
			protocols := []string{}
			for _, one := range known.Protocols {
				protocols = append(protocols, string(one))
			}
			var observed any
			if known.ObservedAddr != nil {
				observed = known.ObservedAddr.String()
			}
			return fields{
				"agent":            known.AgentVersion,
				"protocol_version": known.ProtocolVersion,
				"protocols":        protocols,
				"listen_addrs":     texts(known.ListenAddrs),
				"observed":         observed,
				"signed_record":    known.SignedPeerRecord != nil,
			}, nil
		}
		select {
		case <-told:
		case <-deadline:
			return nil, fmt.Errorf("%s was not identified: %w", id, os.ErrDeadlineExceeded)
		}
	}
}

func texts(addresses []multiaddr.Multiaddr) []string {
	all := make([]string, 0, len(addresses))
	for _, one := range addresses {
		all = append(all, one.String())
	}
	return all
}
