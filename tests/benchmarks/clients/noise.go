package main

// The secured channel: Noise XX as libp2p has it (noise specification of libp2p, "Wire Format" and "The Noise
// Handshake"). flynn/noise does the handshake; what follows is sealed here, in buffers that stay.

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	longestPlaintext = 65519
	smallBuffer      = 2 << 10
	largeBuffer      = 256 << 10
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// identityKey is the PublicKey protobuf of an Ed25519 key; a peer id is its identity multihash.
func identityKey(key ed25519.PublicKey) []byte {
	return appendBytes(appendNumber(nil, 1, 1), 2, key)
}

func peerID(key ed25519.PublicKey) []byte {
	encoded := identityKey(key)
	return append([]byte{0, byte(len(encoded))}, encoded...)
}

func handshakePayload(identity ed25519.PrivateKey, static []byte) []byte {
	signature := ed25519.Sign(identity, append([]byte("noise-libp2p-static-key:"), static...))
	payload := appendBytes(nil, 1, identityKey(identity.Public().(ed25519.PublicKey)))
	return appendBytes(payload, 2, signature)
}

// verifyPayload checks that the remote's identity signed its static key, as every client does.
func verifyPayload(payload, static []byte) error {
	var key, signature, public []byte
	kind := uint64(0)
	err := parse(payload, func(field int, _ uint64, value []byte) {
		switch field {
		case 1:
			key = value
		case 2:
			signature = value
		}
	})
	if err != nil {
		return err
	}
	err = parse(key, func(field int, number uint64, value []byte) {
		if field == 1 {
			kind = number
		} else if field == 2 {
			public = value
		}
	})
	if err != nil {
		return err
	}
	if kind != 1 || len(public) != ed25519.PublicKeySize {
		return errors.New("the remote's identity is not an Ed25519 key")
	}
	if !ed25519.Verify(public, append([]byte("noise-libp2p-static-key:"), static...), signature) {
		return errors.New("the remote's identity did not sign its static key")
	}
	return nil
}

// sealer seals messages in order; opener opens them. Neither keeps more than its AEAD and a counter.
type sealer struct {
	aead  cipher.AEAD
	nonce [12]byte
	count uint64
}

func newSealer(state *noise.CipherState) (*sealer, error) {
	key := state.UnsafeKey()
	aead, err := chacha20poly1305.New(key[:])
	return &sealer{aead: aead}, err
}

func (s *sealer) next() []byte {
	binary.LittleEndian.PutUint64(s.nonce[4:], s.count)
	s.count++
	return s.nonce[:]
}

// seal appends plaintext to out as Noise messages of at most 65519 bytes of plaintext each.
func (s *sealer) seal(out, plaintext []byte) []byte {
	for len(plaintext) > 0 {
		piece := plaintext[:min(len(plaintext), longestPlaintext)]
		plaintext = plaintext[len(piece):]
		out = binary.BigEndian.AppendUint16(out, uint16(len(piece)+chacha20poly1305.Overhead))
		out = s.aead.Seal(out, s.next(), piece, nil)
	}
	return out
}

// opener reads Noise messages from a socket and opens them where they lie. Its buffer is small until a message wants
// more, so that ten thousand silent connections cost little.
type opener struct {
	sealer
	tcp        net.Conn
	buffer     []byte
	start, end int
	left       []byte // plaintext that Read has not given out
}

// next gives the plaintext of the next message, valid until the next call.
func (o *opener) next() ([]byte, error) {
	if len(o.left) > 0 {
		left := o.left
		o.left = nil
		return left, nil
	}
	if err := o.need(2); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(o.buffer[o.start:]))
	if err := o.need(2 + length); err != nil {
		return nil, err
	}
	sealed := o.buffer[o.start+2 : o.start+2+length]
	o.start += 2 + length
	return o.aead.Open(sealed[:0], o.sealer.next(), sealed, nil)
}

// need reads until count bytes lie in the buffer.
func (o *opener) need(count int) error {
	for o.end-o.start < count {
		if o.start == o.end {
			o.start, o.end = 0, 0
		}
		buffer := o.buffer
		if count > len(buffer) {
			buffer = make([]byte, largeBuffer)
		}
		if o.start+count > len(o.buffer) || len(o.buffer)-o.end < len(o.buffer)/4 {
			o.end = copy(buffer, o.buffer[o.start:o.end])
			o.start, o.buffer = 0, buffer
		}
		n, err := o.tcp.Read(buffer[o.end:])
		o.end += n
		if n == 0 && err != nil {
			return err
		}
		if o.end == len(o.buffer) && o.end < largeBuffer { // there is more to take in one call
			o.buffer = make([]byte, largeBuffer)
			o.end = copy(o.buffer, buffer[o.start:o.end])
			o.start = 0
		}
	}
	return nil
}

func (o *opener) Read(p []byte) (int, error) {
	message, err := o.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, message)
	o.left = message[n:]
	return n, nil
}

// secure agrees on Noise and shakes hands, reading no byte beyond the handshake.
func secure(tcp net.Conn, identity ed25519.PrivateKey, initiator bool) (*sealer, *opener, error) {
	if initiator {
		if err := propose(tcp, "/noise"); err != nil {
			return nil, nil, err
		}
	} else if _, err := settle(tcp, func(protocol string) bool { return protocol == "/noise" }); err != nil {
		return nil, nil, err
	}
	static, err := noise.DH25519.GenerateKeypair(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: rand.Reader, Pattern: noise.HandshakeXX, Initiator: initiator, StaticKeypair: static,
	})
	if err != nil {
		return nil, nil, err
	}
	var ours, theirs *noise.CipherState
	for turn := range 3 {
		var first, second *noise.CipherState
		if (turn%2 == 0) == initiator {
			var payload []byte
			if turn > 0 { // the first message is in the clear
				payload = handshakePayload(identity, static.Public)
			}
			message := []byte(nil)
			message, first, second, err = state.WriteMessage(nil, payload)
			if err == nil {
				_, err = tcp.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
			}
		} else {
			var message, payload []byte
			if message, err = readHandshakeMessage(tcp); err == nil {
				payload, first, second, err = state.ReadMessage(nil, message)
			}
			if err == nil && turn > 0 {
				err = verifyPayload(payload, state.PeerStatic())
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("noise message %d: %w", turn, err)
		}
		if turn == 2 {
			ours, theirs = first, second
			if !initiator {
				ours, theirs = second, first
			}
		}
	}
	sealing, err := newSealer(ours)
	if err != nil {
		return nil, nil, err
	}
	opening, err := newSealer(theirs)
	if err != nil {
		return nil, nil, err
	}
	return sealing, &opener{sealer: *opening, tcp: tcp, buffer: make([]byte, smallBuffer)}, nil
}

func readHandshakeMessage(tcp net.Conn) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(tcp, head[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(tcp, message)
	return message, err
}
