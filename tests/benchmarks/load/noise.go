package main

// The secure channel: Noise XX through github.com/flynn/noise, then ChaCha20-Poly1305 on the keys it gives, sealed and
// opened where the bytes lie.

import (
	"bytes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	// The most plaintext of one Noise message: 65535 less the tag.
	maxPlaintext    = 65535 - chacha20poly1305.Overhead
	signaturePrefix = "noise-libp2p-static-key:"
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// halfCipher is one direction's key and counter.
type halfCipher struct {
	aead  cipher.AEAD
	count uint64
	nonce [chacha20poly1305.NonceSize]byte
}

func newHalfCipher(state *noise.CipherState) (*halfCipher, error) {
	key := state.UnsafeKey()
	aead, err := chacha20poly1305.New(key[:])
	return &halfCipher{aead: aead}, err
}

func (h *halfCipher) next() []byte {
	binary.LittleEndian.PutUint64(h.nonce[4:], h.count)
	h.count++
	return h.nonce[:]
}

// seal appends plaintext to out as Noise messages, each as full as it may be.
func (h *halfCipher) seal(out, plaintext []byte) []byte {
	for len(plaintext) > 0 {
		size := min(len(plaintext), maxPlaintext)
		out = binary.BigEndian.AppendUint16(out, uint16(size+chacha20poly1305.Overhead))
		out = h.aead.Seal(out, h.next(), plaintext[:size], nil)
		plaintext = plaintext[size:]
	}
	return out
}

// open decrypts one Noise message's body in place.
func (h *halfCipher) open(body []byte) ([]byte, error) {
	return h.aead.Open(body[:0], h.next(), body, nil)
}

// secured is a connection after its handshake.
type secured struct {
	seal, open *halfCipher
	peer       []byte
}

// handshake runs Noise XX. Each side signs its static key with its identity; wanted, if not nil, is the peer id that
// the other side must prove.
func handshake(conn net.Conn, identity ed25519.PrivateKey, initiator bool, wanted []byte) (secured, error) {
	static, err := suite.GenerateKeypair(rand.Reader)
	if err != nil {
		return secured{}, err
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeXX, Initiator: initiator, StaticKeypair: static,
	})
	if err != nil {
		return secured{}, err
	}
	public := identity.Public().(ed25519.PublicKey)
	payload := appendBytes(nil, 1, encodePublicKey(public))
	payload = appendBytes(payload, 2, ed25519.Sign(identity, append([]byte(signaturePrefix), static.Public...)))

	var first, second *noise.CipherState
	var proof []byte
	// XX: -> e, <- e ee s es, -> s se. The initiator's first message has no payload.
	for turn := range 3 {
		if sending := (turn%2 == 0) == initiator; sending {
			say := payload
			if turn == 0 {
				say = nil
			}
			first, second, err = sendHandshake(conn, state, say)
		} else {
			var got []byte
			got, first, second, err = receiveHandshake(conn, state)
			if turn > 0 {
				proof = got
			}
		}
		if err != nil {
			return secured{}, err
		}
	}
	peer, err := verify(proof, state.PeerStatic())
	if err != nil {
		return secured{}, err
	}
	if wanted != nil && !bytes.Equal(peer, wanted) {
		return secured{}, errors.New("the peer is not the one that was dialled")
	}
	if !initiator {
		first, second = second, first
	}
	seal, err := newHalfCipher(first)
	if err != nil {
		return secured{}, err
	}
	open, err := newHalfCipher(second)
	return secured{seal, open, peer}, err
}

func sendHandshake(conn io.Writer, state *noise.HandshakeState, payload []byte) (*noise.CipherState, *noise.CipherState, error) {
	out, first, second, err := state.WriteMessage(make([]byte, 2, 512), payload)
	if err != nil {
		return nil, nil, err
	}
	binary.BigEndian.PutUint16(out, uint16(len(out)-2))
	_, err = conn.Write(out)
	return first, second, err
}

func receiveHandshake(conn io.Reader, state *noise.HandshakeState) ([]byte, *noise.CipherState, *noise.CipherState, error) {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, nil, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, nil, nil, err
	}
	return state.ReadMessage(nil, body)
}

// verify checks that an identity signed the static key, and gives its peer id.
func verify(payload, static []byte) ([]byte, error) {
	m, err := decode(payload)
	if err != nil {
		return nil, err
	}
	key, err := decodePublicKey(m.bytes[1])
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(key, append([]byte(signaturePrefix), static...), m.bytes[2]) {
		return nil, errors.New("the peer's identity did not sign its Noise key")
	}
	return peerID(key), nil
}
