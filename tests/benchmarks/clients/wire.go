package main

// Protobuf, uvarint frames and multistream-select, no more of each than a relay's client sends and reads.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The largest message that anything here reads; hop and stop are bounded by 4096 in the specification.
const messageLimit = 16 << 10

var errMalformed = errors.New("malformed message")

func appendNumber(b []byte, field int, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3), value)
}

func appendBytes(b []byte, field int, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// parse gives every field of a protobuf message to take: number for varints, value for length-delimited fields.
func parse(b []byte, take func(field int, number uint64, value []byte)) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errMalformed
		}
		b = b[n:]
		size := 0
		switch tag & 7 {
		case 0:
			number, n := binary.Uvarint(b)
			if n <= 0 {
				return errMalformed
			}
			take(int(tag>>3), number, nil)
			b = b[n:]
			continue
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			length, n := binary.Uvarint(b)
			if n <= 0 || length > uint64(len(b)-n) {
				return errMalformed
			}
			take(int(tag>>3), 0, b[n:n+int(length)])
			size = n + int(length)
		default:
			return errMalformed
		}
		if size > len(b) {
			return errMalformed
		}
		b = b[size:]
	}
	return nil
}

func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(message))), message...))
	return err
}

// readMessage reads one uvarint-framed message and not a byte beyond it.
func readMessage(r io.Reader) ([]byte, error) {
	length, shift := uint64(0), 0
	for one := make([]byte, 1); ; shift += 7 {
		if _, err := io.ReadFull(r, one); err != nil {
			return nil, err
		}
		length |= uint64(one[0]&0x7f) << shift
		if one[0] < 0x80 {
			break
		}
		if shift > 21 {
			return nil, errMalformed
		}
	}
	if length > messageLimit {
		return nil, errMalformed
	}
	message := make([]byte, length)
	_, err := io.ReadFull(r, message)
	return message, err
}

const multistream = "/multistream/1.0.0"

func line(text string) []byte {
	return append(append(binary.AppendUvarint(nil, uint64(len(text)+1)), text...), '\n')
}

func readLine(r io.Reader) (string, error) {
	message, err := readMessage(r)
	if err != nil {
		return "", err
	}
	if len(message) == 0 || message[len(message)-1] != '\n' {
		return "", errMalformed
	}
	return string(message[:len(message)-1]), nil
}

// propose settles on one protocol as the dialer: header and proposal in one write, then both answers.
func propose(rw io.ReadWriter, protocol string) error {
	if _, err := rw.Write(append(line(multistream), line(protocol)...)); err != nil {
		return err
	}
	for _, wanted := range []string{multistream, protocol} {
		if got, err := readLine(rw); err != nil {
			return fmt.Errorf("proposing %s: %w", protocol, err)
		} else if got != wanted {
			return fmt.Errorf("proposing %s: answered %q", protocol, got)
		}
	}
	return nil
}

// settle answers proposals as the listener until one of them is known.
func settle(rw io.ReadWriter, known func(protocol string) bool) (string, error) {
	if got, err := readLine(rw); err != nil {
		return "", err
	} else if got != multistream {
		return "", errMalformed
	}
	answer := line(multistream)
	for {
		protocol, err := readLine(rw)
		if err != nil {
			return "", err
		}
		if known(protocol) {
			_, err := rw.Write(append(answer, line(protocol)...))
			return protocol, err
		}
		if _, err := rw.Write(append(answer, line("na")...)); err != nil {
			return "", err
		}
		answer = nil
	}
}
