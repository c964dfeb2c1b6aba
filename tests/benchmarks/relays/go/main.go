// go-libp2p's relay as the library has it: TCP, Noise, yamux, the circuit relay v2 service, identify and ping, every
// limit lifted so that what is measured is the relay and not its refusals. Prints one ready line, then relays until it
// is ended.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

// Far above what any workload reaches; the library allocates nothing for it.
const many = 1 << 20

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	h, err := libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		// Keeps every connection.
		libp2p.ConnectionManager(connmgr.NullConnMgr{}),
		// The transport half only: the relay service is started below, with its limits lifted.
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		return err
	}
	defer h.Close()

	service, err := relay.New(h,
		relay.WithInfiniteLimits(),
		relay.WithReservationAddressFilter(func(multiaddr.Multiaddr) bool { return true }),
		relay.WithResources(relay.Resources{
			ReservationTTL:         24 * time.Hour,
			MaxReservations:        many,
			MaxCircuits:            math.MaxInt,
			BufferSize:             relay.DefaultResources().BufferSize,
			MaxReservationsPerPeer: many,
			MaxReservationsPerIP:   many,
			MaxReservationsPerASN:  many,
		}),
	)
	if err != nil {
		return err
	}
	defer service.Close()

	addresses := []string{}
	for _, address := range h.Addrs() {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", address, h.ID()))
	}
	ready, err := json.Marshal(map[string]any{
		"event": "ready", "peer_id": h.ID().String(), "addresses": addresses, "pid": os.Getpid(),
	})
	if err != nil {
		return err
	}
	fmt.Println(string(ready))
	<-stop
	return nil
}
