// A go-libp2p peer for the relay's interoperability tests: TCP, yamux, identify, ping and the client half of circuit
// relay v2, all as the library does them. Its security transports are the library's defaults, so it offers TLS before
// Noise, as the applications do that are out there. control.go says how it is spoken to.
//
// Environment: DESCORD_PEER_SEED (64 hex digits, optional) is the Ed25519 seed of its identity. DESCORD_PEER_COUNT
// (optional) is how many peers the process is; a command's "as" says which of them it is for, 0 unless told.
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	count := 1
	if told := os.Getenv("DESCORD_PEER_COUNT"); told != "" {
		number, err := strconv.Atoi(told)
		if err != nil || number < 1 {
			return fmt.Errorf("DESCORD_PEER_COUNT is no number of peers: %q", told)
		}
		count = number
	}
	var all []map[string]handler
	var ids []string
	for number := range count {
		seed := ""
		if number == 0 {
			seed = os.Getenv("DESCORD_PEER_SEED")
		}
		h, err := newHost(seed)
		if err != nil {
			return err
		}
		defer h.Close()
		p, err := newPeer(h)
		if err != nil {
			return err
		}
		all = append(all, p.commands())
		ids = append(ids, h.ID().String())
	}
	emit("ready", fields{"peer_id": ids[0], "peer_ids": ids, "implementation": "go", "version": libraryVersion()})
	return serveCommands(os.Stdin, all)
}

func newHost(seed string) (host.Host, error) {
	key, err := identity(seed)
	if err != nil {
		return nil, err
	}
	options := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport),
		// NoListenAddrs would turn the relay client off as well.
		libp2p.EnableRelay(),
		// The library's own guards against strangers would count the tests' many connections from one address as an attack.
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableMetrics(),
	}
	if os.Getenv("DESCORD_PEER_HOLE_PUNCHING") != "" {
		options = append(options, libp2p.EnableHolePunching(), libp2p.ForceReachabilityPrivate())
	}
	return libp2p.New(options...)
}

// identity makes the Ed25519 key of a seed in hex, or a fresh one when there is none.
func identity(seed string) (crypto.PrivKey, error) {
	source := rand.Reader
	if seed != "" {
		decoded, err := hex.DecodeString(seed)
		if err != nil || len(decoded) != ed25519.SeedSize {
			return nil, fmt.Errorf("DESCORD_PEER_SEED is not 64 hex digits")
		}
		source = bytes.NewReader(decoded)
	}
	key, _, err := crypto.GenerateEd25519Key(source)
	return key, err
}

func libraryVersion() string {
	if built, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range built.Deps {
			if dependency.Path == "github.com/libp2p/go-libp2p" {
				return strings.TrimPrefix(dependency.Version, "v")
			}
		}
	}
	return "unknown"
}

// isCircuit tells whether an address leads through a relay.
func isCircuit(address multiaddr.Multiaddr) bool {
	_, err := address.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

// watch prints an event for every connection that opens or closes.
func watch(h host.Host) {
	describe := func(c network.Conn) fields {
		return fields{
			"peer":      c.RemotePeer().String(),
			"relayed":   isCircuit(c.RemoteMultiaddr()),
			"direction": strings.ToLower(c.Stat().Direction.String()),
		}
	}
	h.Network().Notify(&network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { emit("connection", describe(c)) },
		DisconnectedF: func(_ network.Network, c network.Conn) { emit("disconnection", describe(c)) },
	})
}

// remember hands every finished identification to take.
func remember(h host.Host, take func(event.EvtPeerIdentificationCompleted)) error {
	finished, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return err
	}
	go func() {
		for one := range finished.Out() {
			take(one.(event.EvtPeerIdentificationCompleted))
		}
	}()
	return nil
}

// onCircuits lets a stream run on a connection that the relay limits, as an application says it where it means to.
func onCircuits() context.Context {
	return network.WithAllowLimitedConn(context.Background(), "interoperability test")
}
