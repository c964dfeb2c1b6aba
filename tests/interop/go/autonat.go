package main

// AutoNAT v2 as the library does it, server and client, made when a test asks for it. The library dials back from a host
// of its own, and refuses private addresses unless told that there are no others.

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/multiformats/go-multiaddr"
)

// How long one question may take: the library gives it 15 s.
const reachTime = 20 * time.Second

func (p *interopPeer) startAutonat(command) (fields, error) {
	dialer, err := newHost("")
	if err != nil {
		return nil, err
	}
	made, err := autonatv2.New(dialer, autonatv2.AllowPrivateAddrs)
	if err != nil {
		return nil, err
	}
	if err := made.Start(p.host); err != nil {
		return nil, err
	}
	p.autonat = made
	return fields{}, nil
}

var errNoAutonat = errors.New("no AutoNAT: autonat comes first")

// reach asks a server that it is connected to whether "addr" is reached; the library asks none twice in two minutes.
func (p *interopPeer) reach(c command) (fields, error) {
	if p.autonat == nil {
		return nil, errNoAutonat
	}
	address, err := multiaddr.NewMultiaddr(c.Addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), reachTime)
	defer cancel()
	asked := []autonatv2.Request{{Addr: address, SendDialData: true}}
	result, err := p.autonat.GetReachability(ctx, asked)
	for errors.Is(err, autonatv2.ErrNoPeers) && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond) // it learns from identify who is a server
		result, err = p.autonat.GetReachability(ctx, asked)
	}
	if err != nil {
		return nil, err
	}
	reached := result.Reachability == network.ReachabilityPublic
	return fields{"reached": reached, "refused": result.AllAddrsRefused}, nil
}
