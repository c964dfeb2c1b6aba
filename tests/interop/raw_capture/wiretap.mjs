// What is needed to read a libp2p connection from outside: a TCP proxy that keeps what passes, a Noise crypto with
// known keys that keeps what it seals and opens, and readers for yamux frames and multistream lines.
import { createHash } from 'node:crypto'
import { createServer, connect } from 'node:net'
import { pureJsCrypto } from '@libp2p/noise'

export const hex = bytes => Buffer.from(bytes.subarray()).toString('hex')

/** 32 bytes that are the same in every run. */
export const fixedKey = name => createHash('sha256').update(`descord relay capture: ${name}`).digest()

/** A proxy to 127.0.0.1:port; `pieces` fills with {from: 'client'|'relay', bytes} in order of arrival. */
export async function recordingProxy (port) {
  const pieces = []
  const server = createServer(client => {
    const relay = connect(port, '127.0.0.1')
    client.on('data', bytes => { pieces.push({ from: 'client', bytes }); relay.write(bytes) })
    relay.on('data', bytes => { pieces.push({ from: 'relay', bytes }); client.write(bytes) })
    client.on('end', () => relay.end())
    relay.on('end', () => client.end())
    client.on('error', () => relay.destroy())
    relay.on('error', () => client.destroy())
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return { port: server.address().port, pieces, close: () => server.close() }
}

/**
 * The library's own Noise primitives, with ephemeral keys of this node from `fixedKey`, and with the plaintexts of
 * every transport cipher kept: `sealed` and `opened` are lists of {key, plaintexts}, one for each session, in order.
 */
export function recordingCrypto (name) {
  const record = { ephemerals: [], sealed: [], opened: [] }
  const keep = (list, key, plaintext) => {
    const text = hex(key)
    let session = list.find(entry => entry.key === text)
    if (session === undefined) {
      session = { key: text, plaintexts: [] }
      list.push(session)
    }
    session.plaintexts.push(Buffer.from(plaintext.subarray()))
  }
  const crypto = {
    ...pureJsCrypto,
    generateX25519KeyPair () {
      const seed = fixedKey(`${name} ephemeral ${record.ephemerals.length}`)
      record.ephemerals.push(hex(seed))
      return pureJsCrypto.generateX25519KeyPairFromSeed(seed)
    },
    chaCha20Poly1305Encrypt (plaintext, nonce, ad, key) {
      if (ad.byteLength === 0) { // handshake messages authenticate the handshake's hash, transport messages nothing
        keep(record.sealed, key, plaintext)
      }
      return pureJsCrypto.chaCha20Poly1305Encrypt(plaintext, nonce, ad, key)
    },
    chaCha20Poly1305Decrypt (ciphertext, nonce, ad, key, dst) {
      const plaintext = pureJsCrypto.chaCha20Poly1305Decrypt(ciphertext, nonce, ad, key, dst)
      if (ad.byteLength === 0) {
        keep(record.opened, key, plaintext)
      }
      return plaintext
    }
  }
  return { crypto, record }
}

const FRAME_TYPES = ['data', 'window_update', 'ping', 'go_away']
const FLAGS = [[1, 'SYN'], [2, 'ACK'], [4, 'FIN'], [8, 'RST']]

/** Splits a direction's plaintext into yamux frames. */
export function yamuxFrames (bytes) {
  const frames = []
  for (let at = 0; at + 12 <= bytes.length;) {
    const type = bytes.readUInt8(at + 1)
    const length = bytes.readUInt32BE(at + 8)
    const end = at + 12 + (type === 0 ? length : 0)
    frames.push({
      type: FRAME_TYPES[type],
      flags: FLAGS.filter(([bit]) => bytes.readUInt16BE(at + 2) & bit).map(([, flag]) => flag),
      stream: bytes.readUInt32BE(at + 4),
      length,
      header: hex(bytes.subarray(at, at + 12)),
      body: hex(bytes.subarray(at + 12, end))
    })
    at = end
  }
  return frames
}

/** Per stream id, what both directions carried: Map(id -> {client: Buffer, relay: Buffer, opened_by}). */
export function streamsOf (clientFrames, relayFrames) {
  const streams = new Map()
  for (const [side, frames] of [['client', clientFrames], ['relay', relayFrames]]) {
    for (const { stream: id, body, type } of frames) {
      if (id === 0 || type === 'ping' || type === 'go_away') {
        continue
      }
      const stream = streams.get(id) ?? { opened_by: id % 2 === 1 ? 'client' : 'relay', client: Buffer.alloc(0), relay: Buffer.alloc(0) }
      stream[side] = Buffer.concat([stream[side], Buffer.from(body, 'hex')])
      streams.set(id, stream)
    }
  }
  return streams
}

/** Splits length-prefixed messages (one-byte or longer varint): {message, end} of the one at `at`, or undefined. */
export function framed (bytes, at) {
  let length = 0
  let shift = 0
  let position = at
  for (;; shift += 7) {
    if (position >= bytes.length) {
      return undefined
    }
    const byte = bytes[position++]
    length += (byte & 0x7f) * 2 ** shift
    if (byte < 0x80) {
      break
    }
  }
  return position + length <= bytes.length ? { message: bytes.subarray(position, position + length), end: position + length } : undefined
}

/** Takes multistream-select lines off the front: {lines, negotiation, rest}. */
export function multistreamLines (bytes) {
  const lines = []
  let at = 0
  for (let next = framed(bytes, at); next !== undefined && next.message.at(-1) === 0x0a && (lines.length === 0 ? next.message.toString() === '/multistream/1.0.0\n' : next.message[0] === 0x2f || next.message.toString() === 'na\n') && lines.length < 2; next = framed(bytes, at)) {
    lines.push(next.message.toString().trimEnd())
    at = next.end
  }
  return { lines, negotiation: bytes.subarray(0, at), rest: bytes.subarray(at) }
}
