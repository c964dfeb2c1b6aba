package main

// The small encodings below the protocols: varints, the few protobuf shapes that circuits and identities use, peer ids.

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
)

var errMalformed = errors.New("malformed message")

// appendBytes adds a protobuf field of bytes.
func appendBytes(to []byte, field int, value []byte) []byte {
	to = binary.AppendUvarint(to, uint64(field)<<3|2)
	to = binary.AppendUvarint(to, uint64(len(value)))
	return append(to, value...)
}

// appendNumber adds a protobuf field of a number.
func appendNumber(to []byte, field int, value uint64) []byte {
	to = binary.AppendUvarint(to, uint64(field)<<3)
	return binary.AppendUvarint(to, value)
}

// framed puts a uvarint length before a message.
func framed(message []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(message))), message...)
}

// message holds a decoded protobuf message's last value of each field; nothing here repeats a field that is read.
type message struct {
	numbers map[int]uint64
	bytes   map[int][]byte
}

func decode(data []byte) (message, error) {
	m := message{map[int]uint64{}, map[int][]byte{}}
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 {
			return m, errMalformed
		}
		data = data[size:]
		value, size := binary.Uvarint(data)
		if size <= 0 {
			return m, errMalformed
		}
		data = data[size:]
		switch field := int(tag >> 3); tag & 7 {
		case 0:
			m.numbers[field] = value
		case 2:
			if value > uint64(len(data)) {
				return m, errMalformed
			}
			m.bytes[field] = data[:value]
			data = data[value:]
		default:
			return m, errMalformed
		}
	}
	return m, nil
}

// encodePublicKey gives an Ed25519 key's libp2p message: Type=1 is 1, Data=2.
func encodePublicKey(key ed25519.PublicKey) []byte {
	return appendBytes(appendNumber(nil, 1, 1), 2, key)
}

// decodePublicKey reads an Ed25519 key's message; relays here have no other kind.
func decodePublicKey(data []byte) (ed25519.PublicKey, error) {
	m, err := decode(data)
	if err != nil {
		return nil, err
	}
	if m.numbers[1] != 1 || len(m.bytes[2]) != ed25519.PublicKeySize {
		return nil, errors.New("the peer's key is not Ed25519")
	}
	return ed25519.PublicKey(m.bytes[2]), nil
}

// peerID is the identity multihash of a key's message, as for every key of at most 42 bytes.
func peerID(key ed25519.PublicKey) []byte {
	encoded := encodePublicKey(key)
	return append([]byte{0x00, byte(len(encoded))}, encoded...)
}

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// parsePeerID reads the base58 text of a peer id. Identity multihashes begin with a zero byte, written as one 1.
func parsePeerID(text string) ([]byte, error) {
	number := new(big.Int)
	for _, letter := range text {
		digit := strings.IndexRune(base58, letter)
		if digit < 0 {
			return nil, fmt.Errorf("%q is not base58", text)
		}
		number.Add(number.Mul(number, big.NewInt(58)), big.NewInt(int64(digit)))
	}
	zeros := len(text) - len(strings.TrimLeft(text, "1"))
	return append(make([]byte, zeros), number.Bytes()...), nil
}

// parseAddress takes /ip4/A/tcp/P/p2p/ID apart.
func parseAddress(text string) (address string, id []byte, err error) {
	parts := strings.Split(text, "/")
	if len(parts) != 7 || parts[1] != "ip4" || parts[3] != "tcp" || parts[5] != "p2p" {
		return "", nil, fmt.Errorf("%q is not /ip4/ADDRESS/tcp/PORT/p2p/ID", text)
	}
	id, err = parsePeerID(parts[6])
	return net.JoinHostPort(parts[2], parts[4]), id, err
}

// multiaddr gives the binary /ip4/.../tcp/... of a socket's address.
func multiaddr(address net.Addr) []byte {
	tcp := address.(*net.TCPAddr)
	out := append([]byte{0x04}, tcp.IP.To4()...)
	return binary.BigEndian.AppendUint16(append(out, 0x06), uint16(tcp.Port))
}
