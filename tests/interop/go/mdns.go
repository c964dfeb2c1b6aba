package main

// Multicast DNS as the library does it: this peer is announced, and those that it hears of are events.

import (
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

type tellPeers struct{}

func (tellPeers) HandlePeerFound(found peer.AddrInfo) {
	addresses := []string{}
	for _, address := range found.Addrs {
		addresses = append(addresses, address.String())
	}
	emit("mdns_peer", fields{"peer": found.ID.String(), "addrs": addresses})
}

func (p *interopPeer) startMDNS(command) (fields, error) {
	return fields{}, mdns.NewMdnsService(p.host, "", tellPeers{}).Start()
}
