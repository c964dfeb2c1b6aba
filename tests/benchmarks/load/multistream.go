package main

// multistream-select 1.0 over anything that reads and writes: before Noise, inside it and on every stream.

import (
	"encoding/binary"
	"fmt"
	"io"
)

const multistreamHeader = "/multistream/1.0.0"

// Longest protocol name anyone here says.
const maxLine = 256

func appendLine(to []byte, line string) []byte {
	to = binary.AppendUvarint(to, uint64(len(line)+1))
	return append(append(to, line...), '\n')
}

// readFramed reads one uvarint-framed message of at most limit bytes, and nothing after it.
func readFramed(from io.Reader, limit int) ([]byte, error) {
	size, one := uint64(0), [1]byte{}
	for shift := 0; ; shift += 7 {
		if _, err := io.ReadFull(from, one[:]); err != nil {
			return nil, err
		}
		size |= uint64(one[0]&0x7f) << shift
		if size > uint64(limit) || shift > 28 {
			return nil, fmt.Errorf("a message longer than %d bytes", limit)
		}
		if one[0] < 0x80 {
			break
		}
	}
	data := make([]byte, size)
	_, err := io.ReadFull(from, data)
	return data, err
}

func readLine(from io.Reader) (string, error) {
	line, err := readFramed(from, maxLine)
	if err != nil {
		return "", err
	}
	if len(line) == 0 || line[len(line)-1] != '\n' {
		return "", errMalformed
	}
	return string(line[:len(line)-1]), nil
}

// propose asks for one protocol, header and proposal in one write as the implementations do. rest goes out with them.
func propose(peer io.ReadWriter, protocol string, rest []byte) error {
	opening := appendLine(appendLine(nil, multistreamHeader), protocol)
	if _, err := peer.Write(append(opening, rest...)); err != nil {
		return err
	}
	for _, wanted := range []string{multistreamHeader, protocol} {
		got, err := readLine(peer)
		if err != nil {
			return err
		}
		if got != wanted {
			return fmt.Errorf("asked for %s, was told %q", protocol, got)
		}
	}
	return nil
}

// answer takes the first proposal that is known. Nobody waits for what follows: the header is answered at once.
func answer(peer io.ReadWriter, known func(protocol string) bool) (string, error) {
	header, err := readLine(peer)
	if err != nil {
		return "", err
	}
	if header != multistreamHeader {
		return "", fmt.Errorf("%q is not multistream's header", header)
	}
	if _, err := peer.Write(appendLine(nil, multistreamHeader)); err != nil {
		return "", err
	}
	for {
		protocol, err := readLine(peer)
		if err != nil {
			return "", err
		}
		if known(protocol) {
			_, err = peer.Write(appendLine(nil, protocol))
			return protocol, err
		}
		if _, err = peer.Write(appendLine(nil, "na")); err != nil {
			return "", err
		}
	}
}
