package main

// A Kademlia node of the library's own (go-libp2p-kad-dht), and its routing discovery: how an application finds the
// providers of a name. It is made when a test asks for it, so that no other test has one.

import (
	"context"
	"errors"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/routing"
	"github.com/multiformats/go-multiaddr"
)

// How long one look-up may take, unless a command says.
const lookUpTime = 20 * time.Second

// joinDHT starts a server ("server": true) or client of the DHT at "prefix", which knows the peers at "addrs".
func (p *interopPeer) joinDHT(c command) (fields, error) {
	mode := dht.ModeClient
	if c.Server {
		mode = dht.ModeServer
	}
	var known []peer.AddrInfo
	for _, one := range c.Addrs {
		address, err := multiaddr.NewMultiaddr(one)
		if err != nil {
			return nil, err
		}
		info, err := peer.AddrInfoFromP2pAddr(address)
		if err != nil {
			return nil, err
		}
		known = append(known, *info)
	}
	table, err := dht.New(p.host,
		dht.ProtocolPrefix(protocol.ID(c.Prefix)), dht.Mode(mode), dht.BootstrapPeers(known...))
	if err != nil {
		return nil, err
	}
	for _, one := range known {
		if err := p.host.Connect(context.Background(), one); err != nil {
			return nil, err
		}
	}
	if err := table.Bootstrap(context.Background()); err != nil {
		return nil, err
	}
	p.dht = table
	return fields{}, nil
}

func (p *interopPeer) dhtPeers(command) (fields, error) {
	if p.dht == nil {
		return nil, errNoDHT
	}
	ids := []string{}
	for _, one := range p.dht.RoutingTable().ListPeers() {
		ids = append(ids, one.String())
	}
	return fields{"peers": ids}, nil
}

var errNoDHT = errors.New("no DHT: dht_join comes first")

// provide says that this peer is one of those that "name" stands for.
func (p *interopPeer) provide(c command) (fields, error) {
	if p.dht == nil {
		return nil, errNoDHT
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookUpTime)
	defer cancel()
	_, err := routing.NewRoutingDiscovery(p.dht).Advertise(ctx, c.Name, discovery.TTL(time.Hour))
	return fields{}, err
}

// find looks for those that "name" stands for.
func (p *interopPeer) find(c command) (fields, error) {
	if p.dht == nil {
		return nil, errNoDHT
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookUpTime)
	defer cancel()
	found, err := routing.NewRoutingDiscovery(p.dht).FindPeers(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	peers := fields{}
	for one := range found {
		addresses := []string{}
		for _, address := range one.Addrs {
			addresses = append(addresses, address.String())
		}
		peers[one.ID.String()] = addresses
	}
	return fields{"peers": peers}, nil
}
