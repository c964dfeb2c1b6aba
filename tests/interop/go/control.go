package main

// The control protocol that every interoperability peer speaks, whatever its language: one JSON object a line.
// Commands come in on stdin as {"id": n, "cmd": name, ...} and run concurrently; each is answered once on stdout with
// {"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": text}. Everything else on stdout is {"event": name, ...}.
// The process ends when stdin does. Logs go to stderr.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
)

type fields map[string]any

// command holds the arguments of every command; each reads the ones it has.
type command struct {
	ID    *int64  `json:"id"`
	Cmd   string  `json:"cmd"`
	Relay string  `json:"relay"`
	Addr  string  `json:"addr"`
	Peer  string  `json:"peer"`
	Bytes int64   `json:"bytes"`
	Seed  uint64  `json:"seed"`
	Quiet float64 `json:"quiet"`
	As    int     `json:"as"`

	// Of ask.
	Protocol string `json:"protocol"`
	Data     string `json:"data"`

	// Of the DHT.
	Prefix string   `json:"prefix"`
	Server bool     `json:"server"`
	Addrs  []string `json:"addrs"`
	Name   string   `json:"name"`

	// Of the raw commands.
	Request string `json:"request"`
	Circuit string `json:"circuit"`
	Stalled int64  `json:"stalled"`
}

type handler func(command) (fields, error)

var output sync.Mutex

func printLine(line fields) {
	encoded, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	_, _ = os.Stdout.Write(append(encoded, '\n'))
}

func emit(event string, more fields) {
	line := fields{"event": event}
	maps.Copy(line, more)
	printLine(line)
}

func text(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

// serveCommands runs each line's command in its own goroutine until input ends. peers: the handlers of each peer.
func serveCommands(input io.Reader, peers []map[string]handler) error {
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var asked command
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			printLine(fields{"id": asked.ID, "ok": false, "error": err.Error()})
			continue
		}
		if asked.As < 0 || asked.As >= len(peers) {
			printLine(fields{"id": asked.ID, "ok": false, "error": fmt.Sprintf("there is no peer %d here", asked.As)})
			continue
		}
		go answer(asked, peers[asked.As])
	}
	return lines.Err()
}

func answer(asked command, handlers map[string]handler) {
	run, known := handlers[asked.Cmd]
	if !known {
		run = func(command) (fields, error) { return nil, fmt.Errorf("unknown command %q", asked.Cmd) }
	}
	result, err := run(asked)
	if err != nil {
		printLine(fields{"id": asked.ID, "ok": false, "error": err.Error()})
		return
	}
	line := fields{"id": asked.ID, "ok": true}
	maps.Copy(line, result)
	printLine(line)
}
