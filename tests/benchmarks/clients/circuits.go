package main

// The workloads' circuits: through the relay, or for a baseline straight from peer to peer through the same code.

import (
	"net"
)

const directProtocol = "/descord/direct/1.0.0"

type layout struct {
	relay  string // host:port; empty for direct
	window uint32
	shared bool // all circuits between one pair of connections
	one    bool // all to one target, each from a connection of its own
}

// open makes count circuits, one after another so that each end is known by its order.
func (l layout) open(count int) ([]circuit, error) {
	var source, target *peer
	var err error
	circuits := make([]circuit, 0, count)
	for range count {
		if source == nil || !l.shared {
			if target == nil || !l.one {
				if target, err = l.target(); err != nil {
					return nil, err
				}
			}
			if source, err = l.source(target); err != nil {
				return nil, err
			}
		}
		var made circuit
		if l.relay == "" {
			made, err = direct(source, target)
		} else {
			made, err = source.connect(target)
		}
		if err != nil {
			return nil, err
		}
		circuits = append(circuits, made)
	}
	return circuits, nil
}

func (l layout) target() (*peer, error) {
	if l.relay == "" {
		return &peer{}, nil // made when its source dials
	}
	target, err := dial(l.relay, l.window, 0)
	if err != nil {
		return nil, err
	}
	return target, target.reserve()
}

func (l layout) source(target *peer) (*peer, error) {
	if l.relay != "" {
		return dial(l.relay, l.window, 0)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	made := make(chan error, 1)
	go func() {
		tcp, err := listener.Accept()
		if err == nil {
			var accepted *peer
			if accepted, err = newPeer(tcp, false, l.window); err == nil {
				target.session, target.key, target.opened = accepted.session, accepted.key, accepted.opened
			}
		}
		made <- err
	}()
	source, err := dial(listener.Addr().String(), l.window, 0)
	if err != nil {
		return nil, err
	}
	return source, <-made
}

func direct(source, target *peer) (circuit, error) {
	s, err := source.session.open(directProtocol)
	if err != nil {
		return circuit{}, err
	}
	return circuit{s, <-target.opened}, nil
}
