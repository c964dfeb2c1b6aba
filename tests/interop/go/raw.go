package main

// Below the library's relay client: a HOP message of the test's own making, and both ends of a circuit as plain bytes,
// with neither Noise nor yamux inside it. So a test sees every field of an answer, and counts what a circuit carries.

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/multiformats/go-varint"
)

const maxMessage = 4096

// StopMessage{type: STATUS, status: OK}
var stopAccepted = []byte{4, 0x08, 0x01, 0x20, 0x64}

type rawCircuits struct {
	mu   sync.Mutex
	open map[string]*rawCircuit // by the id that hop_raw gave
	next int
}

// rawCircuit is the dialer's end: a HOP stream after its first exchange.
type rawCircuit struct {
	stream   network.Stream
	ended    chan struct{} // closed when nothing more can come in
	received int64
	err      error
}

// byteReader reads one byte at a time, so that nothing after a message is swallowed with it.
type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var one [1]byte
	_, err := io.ReadFull(r, one[:])
	return one[0], err
}

func readMessage(r io.Reader) ([]byte, error) {
	size, err := varint.ReadUvarint(byteReader{r})
	if err != nil {
		return nil, err
	}
	if size > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", size)
	}
	message := make([]byte, size)
	_, err = io.ReadFull(r, message)
	return message, err
}

// hopRaw sends one HOP message, given in hex, on a new stream, and tells the answer in hex. The stream stays: it is the
// circuit, if that is what was asked for.
func (p *interopPeer) hopRaw(c command) (fields, error) {
	relay, err := peer.AddrInfoFromString(c.Relay)
	if err != nil {
		return nil, err
	}
	request, err := hex.DecodeString(c.Request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.host.Connect(ctx, *relay); err != nil {
		return nil, err
	}
	s, err := p.host.NewStream(ctx, relay.ID, proto.ProtoIDv2Hop)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(append(varint.ToUvarint(uint64(len(request))), request...)); err != nil {
		return nil, err
	}
	reply, err := readMessage(s)
	if err != nil {
		return nil, err
	}
	return fields{"reply": hex.EncodeToString(reply), "circuit": p.raw.keep(s)}, nil
}

func (r *rawCircuits) keep(s network.Stream) string {
	kept := &rawCircuit{stream: s, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	id := fmt.Sprint(r.next)
	if r.open == nil {
		r.open = map[string]*rawCircuit{}
	}
	r.open[id] = kept
	go func() {
		kept.received, kept.err = io.Copy(io.Discard, s)
		close(kept.ended)
	}()
	return id
}

func (r *rawCircuits) get(id string) (*rawCircuit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kept, found := r.open[id]; found {
		return kept, nil
	}
	return nil, fmt.Errorf("no raw circuit %q", id)
}

// rawPush writes bytes into a circuit.
func (p *interopPeer) rawPush(c command) (fields, error) {
	circuit, err := p.raw.get(c.Circuit)
	if err != nil {
		return nil, err
	}
	_, err = io.CopyN(circuit.stream, newByteSource(c.Seed), c.Bytes)
	return fields{}, err
}

// rawClose half-closes a circuit from the dialer's side.
func (p *interopPeer) rawClose(c command) (fields, error) {
	circuit, err := p.raw.get(c.Circuit)
	if err != nil {
		return nil, err
	}
	return fields{}, circuit.stream.CloseWrite()
}

// rawEnd waits until nothing more can come in, and tells how much came and how it ended.
func (p *interopPeer) rawEnd(c command) (fields, error) {
	circuit, err := p.raw.get(c.Circuit)
	if err != nil {
		return nil, err
	}
	<-circuit.ended
	return ending(circuit.received, circuit.err), nil
}

func ending(received int64, err error) fields {
	return fields{"received": received, "error": text(err), "reset": errors.Is(err, network.ErrReset)}
}

// stopRaw takes over the STOP protocol: incoming circuits are accepted and their bytes counted, but the first Stalled of
// them are never read. An event tells when Bytes have come, and another how each circuit ended.
func (p *interopPeer) stopRaw(c command) (fields, error) {
	var accepted atomic.Int64
	p.host.SetStreamHandler(proto.ProtoIDv2Stop, func(s network.Stream) {
		connect, err := readMessage(s)
		if err == nil {
			_, err = s.Write(stopAccepted)
		}
		if err != nil {
			_ = s.Reset()
			return
		}
		emit("raw_circuit", fields{"connect": hex.EncodeToString(connect)})
		if accepted.Add(1) <= c.Stalled {
			return
		}
		counted := &counter{full: c.Bytes}
		_, err = io.Copy(counted, s)
		emit("raw_circuit_ended", ending(counted.received, err))
		if err == nil {
			// Half-closed by the dialer: answer with its own count of bytes, and close.
			_, _ = io.Copy(s, io.LimitReader(newByteSource(0), counted.received))
			_ = s.Close()
		}
	})
	return fields{}, nil
}

type counter struct{ received, full int64 }

func (c *counter) Write(piece []byte) (int, error) {
	before := c.received
	c.received += int64(len(piece))
	if before < c.full && c.received >= c.full {
		emit("raw_circuit_full", fields{"received": c.received})
	}
	return len(piece), nil
}
