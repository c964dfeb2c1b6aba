// Records what js-libp2p puts on the wire, so that unit tests read bytes which are not our own encoder's.
//
// Three js nodes with fixed keys: a relay, a target that reserves on it, a dialer that connects through it and pings
// the target. Target and dialer reach the relay through recording proxies. What was sealed is written down with the
// keys that open it, so a test may replay a connection from its first byte, or take any layer of it.
//
// Run with run.sh (it needs the js peer's packages); the vectors go to the folder given as the last argument.
import './runtime.mjs'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { generateKeyPair, generateKeyPairFromSeed, privateKeyToProtobuf, publicKeyToProtobuf } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { HopMessage, StopMessage } from './hop-message.mjs'
import { fixedKey, framed, hex, multistreamLines, recordingCrypto, recordingProxy, streamsOf, yamuxFrames } from './wiretap.mjs'

const HOP = '/libp2p/circuit/relay/0.2.0/hop'
const STOP = '/libp2p/circuit/relay/0.2.0/stop'
const IDENTIFY = '/ipfs/id/1.0.0'
const folder = process.argv[2]
const versionOf = name => JSON.parse(readFileSync(new URL('../../package.json', import.meta.resolve(name)))).version
const source = {
  how: 'tests/interop/raw_capture: js-libp2p nodes on one machine, target and dialer through recording TCP proxies',
  libp2p: versionOf('libp2p'),
  circuit_relay_v2: versionOf('@libp2p/circuit-relay-v2'),
  noise: versionOf('@libp2p/noise'),
  yamux: versionOf('@libp2p/yamux')
}

function write (name, vectors) {
  writeFileSync(join(folder, `js_${name}.json`), JSON.stringify({ source, ...vectors }, null, 1) + '\n')
}

async function startNode (name, { transports = [tcp()], listen = [], services = {}, keepAlive = false, identifies = true }) {
  const { crypto, record } = recordingCrypto(name)
  const seed = fixedKey(`${name} identity`)
  const privateKey = await generateKeyPairFromSeed('Ed25519', seed)
  const staticNoiseKey = fixedKey(`${name} static`)
  const node = await createLibp2p({
    privateKey,
    addresses: { listen },
    transports,
    connectionEncrypters: [noise({ staticNoiseKey, crypto })],
    streamMuxers: [yamux({ enableKeepAlive: keepAlive, keepAliveInterval: 100 })],
    connectionMonitor: { enabled: false },
    // The relay asks nobody who they are, so every stream of a connection is its client's, but for the stop stream.
    services: { identify: identify({ runOnConnectionOpen: identifies }), ping: ping(), ...services }
  })
  return { node, record, keys: { peer_id: node.peerId.toString(), identity_seed: hex(seed), static_private: hex(staticNoiseKey) } }
}

// --- the run --------------------------------------------------------------------------------------------------------

const relay = await startNode('relay', {
  listen: ['/ip4/127.0.0.1/tcp/0'],
  identifies: false,
  services: { relay: circuitRelayServer({ reservations: { defaultDataLimit: 1n << 20n, defaultDurationLimit: 120_000 } }) }
})
const port = Number(relay.node.getMultiaddrs()[0].getComponents().find(({ name }) => name === 'tcp').value)
const proxies = { target: await recordingProxy(port), dialer: await recordingProxy(port) }
const through = name => `/ip4/127.0.0.1/tcp/${proxies[name].port}/p2p/${relay.keys.peer_id}`
const client = { transports: [tcp(), circuitRelayTransport()] }

const target = await startNode('target', client)
await target.node.components.transportManager.listen([multiaddr(`${through('target')}/p2p-circuit`)])
const dialer = await startNode('dialer', { ...client, keepAlive: true })
const connection = await dialer.node.dial(multiaddr(`${through('dialer')}/p2p-circuit/p2p/${target.keys.peer_id}`))
await new Promise(resolve => setTimeout(resolve, 500)) // identify and a yamux ping or two
const stream = await connection.newStream('/ipfs/ping/1.0.0', { runOnLimitedConnection: true })
const pong = new Promise(resolve => stream.addEventListener('message', resolve, { once: true }))
stream.send(fixedKey('ping payload'))
await pong
await stream.close()

// A dialer that asks for someone who is not there: the refusal.
const refused = await dialer.node.dial(multiaddr(`${through('dialer')}/p2p-circuit/p2p/${peerIdFromPrivateKey(await generateKeyPairFromSeed('Ed25519', fixedKey('nobody'))).toString()}`))
  .then(() => { throw new Error('reached nobody') }, error => error.message)
console.error('refusal:', refused)
const relayProtocols = relay.node.getProtocols()
await connection.close()
await dialer.node.stop()
await target.node.stop()
await relay.node.stop()

// --- layer by layer -------------------------------------------------------------------------------------------------

function session (name, { record, keys }, relayEphemeral) {
  const bytes = side => Buffer.concat(proxies[name].pieces.filter(({ from }) => from === side).map(piece => piece.bytes))
  const wire = { client: bytes('client'), relay: bytes('relay') }
  const select = { client: multistreamLines(wire.client), relay: multistreamLines(wire.relay) }
  const noiseMessage = (side, index) => {
    let rest = select[side].rest
    for (; index > 0; index--) {
      rest = rest.subarray(2 + rest.readUInt16BE(0))
    }
    return rest.subarray(0, 2 + rest.readUInt16BE(0))
  }
  const plain = { client: Buffer.concat(record.sealed[0].plaintexts), relay: Buffer.concat(record.opened[0].plaintexts) }
  const frames = { client: yamuxFrames(plain.client), relay: yamuxFrames(plain.relay) }
  return {
    initiator: { ...keys, ephemeral_private: record.ephemerals[0] },
    responder: { ...relay.keys, ephemeral_private: relayEphemeral },
    pieces: proxies[name].pieces.map(piece => ({ from: piece.from, hex: hex(piece.bytes) })),
    multistream: { client: hex(select.client.negotiation), relay: hex(select.relay.negotiation), lines: select.client.lines },
    noise: {
      messages: [noiseMessage('client', 0), noiseMessage('relay', 0), noiseMessage('client', 1)].map(hex),
      initiator_key: record.sealed[0].key,
      responder_key: record.opened[0].key
    },
    plaintext: { client: hex(plain.client), relay: hex(plain.relay) },
    frames,
    streams: streamsOf(frames.client, frames.relay)
  }
}

const sessions = {
  target: session('target', target, relay.record.ephemerals[0]),
  dialer: session('dialer', dialer, relay.record.ephemerals[1])
}

write('noise', {
  note: 'Noise XX of a js initiator and a js responder with these keys; messages with their length prefix. The pieces are the whole connection as TCP carried it, multistream-select first.',
  sessions: Object.fromEntries(Object.entries(sessions).map(([name, { frames, streams, ...rest }]) => [name, rest]))
})
write('yamux', {
  note: "The frames inside a connection's Noise messages, in order, per direction; odd streams are the client's.",
  sessions: Object.fromEntries(Object.entries(sessions).map(([name, { frames }]) => [name, frames]))
})

const streams = Object.entries(sessions).flatMap(([name, { streams }]) => [...streams].map(([id, stream]) => {
  const [opener, other] = stream.opened_by === 'client' ? ['client', 'relay'] : ['relay', 'client']
  const asked = multistreamLines(stream[opener])
  const answered = multistreamLines(stream[other])
  return {
    session: name,
    id,
    opened_by: stream.opened_by,
    protocol: asked.lines.at(-1),
    negotiation: { dialer: hex(asked.negotiation), listener: hex(answered.negotiation) },
    dialer: asked.rest,
    listener: answered.rest
  }
}))
write('multistream', {
  note: 'multistream-select of every stream: what the opening side and the other side wrote before the protocol itself.',
  negotiations: streams.map(({ session, id, protocol, negotiation }) => ({ session, id, protocol, ...negotiation }))
})

const plainFields = value => {
  if (typeof value === 'bigint') {
    return Number(value)
  }
  if (value instanceof Uint8Array) {
    return hex(value)
  }
  if (Array.isArray(value)) {
    return value.map(plainFields)
  }
  return value !== null && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([key, field]) => [key, plainFields(field)])) : value
}
const firstMessage = (bytes, codec) => {
  const { message, end } = framed(bytes, 0)
  return { framed: hex(bytes.subarray(0, end)), fields: plainFields(codec.decode(message)), trailing: hex(bytes.subarray(end, end + 64)) }
}
const exchanges = (protocol, codec) => streams.filter(stream => stream.protocol === protocol).map(stream => ({
  session: stream.session,
  request: firstMessage(stream.dialer, codec),
  answer: firstMessage(stream.listener, codec)
}))
write('circuit', {
  note: 'Hop and stop messages with their length prefix, the fields js reads from them, and the first bytes that follow (of the circuit itself). js writes the duration limit in milliseconds.',
  relay: relay.keys.peer_id,
  target: target.keys.peer_id,
  dialer: dialer.keys.peer_id,
  hop: exchanges(HOP, HopMessage),
  stop: exchanges(STOP, StopMessage)
})

const identification = streams.filter(({ protocol, listener }) => protocol === IDENTIFY && listener.length > 0)
write('identify', {
  note: 'What the js relay told about itself, framed; its signed peer record is inside.',
  peer_id: relay.keys.peer_id,
  identity_seed: relay.keys.identity_seed,
  agent_version: `js-libp2p/${source.libp2p} node/${process.versions.node}`,
  protocols: relayProtocols,
  listen_port: port,
  messages: identification.map(({ session, listener }) => ({ session, framed: hex(listener) }))
})

const message = fixedKey('message')
const keyVector = (type, privateKey) => Promise.resolve(privateKey.sign(message)).then(signature => ({
  type,
  peer_id: peerIdFromPrivateKey(privateKey).toString(),
  peer_id_cid: peerIdFromPrivateKey(privateKey).toCID().toString(),
  public_key: hex(publicKeyToProtobuf(privateKey.publicKey)),
  ...(type === 'Ed25519' ? { private_key: hex(privateKeyToProtobuf(privateKey)), seed: hex(fixedKey('key')) } : {}),
  message: hex(message),
  signature: hex(signature)
}))
write('identity', {
  note: "Public keys as libp2p protobufs, their peer ids, and a signature of each over 'message'. No ECDSA: js names no peer by such a key, and writes it otherwise than the specification says.",
  keys: await Promise.all([
    keyVector('Ed25519', await generateKeyPairFromSeed('Ed25519', fixedKey('key'))),
    keyVector('RSA', await generateKeyPair('RSA', 2048)),
    keyVector('secp256k1', await generateKeyPair('secp256k1'))
  ])
})
process.exit(0)
