// A js-libp2p peer for the relay's interoperability tests: TCP, Noise, yamux, identify, ping and the client half of
// circuit relay v2, all as the library does them. control.mjs says how it is spoken to.
//
// Environment: DESCORD_PEER_SEED (64 hex digits, optional) is the Ed25519 seed of its identity.
import './runtime.mjs'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { circuitRelayTransport, RELAY_V2_HOP_CODEC } from '@libp2p/circuit-relay-v2'
import { generateKeyPair, generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { describe, emit, serveCommands } from './control.mjs'
import { ask, echoHalfClose, flood, HALF_CLOSE, LISTENERS, pull, PULL, push, PUSH, stall, STALL } from './traffic.mjs'
import { dhtCommands } from './dht.mjs'
import { HopMessage } from './hop-message.mjs'
import { mdnsCommands } from './mdns.mjs'

const CIRCUIT = '/p2p-circuit'
const STREAMS = { runOnLimitedConnection: true, maxInboundStreams: 4096, maxOutboundStreams: 4096 }

// The library keeps the reservation of an answer and drops the limit beside it. Both come out of one decode call,
// so the limit is remembered under the reservation object that the library goes on to keep.
const limitOf = new WeakMap()
const decodeHop = HopMessage.decode
HopMessage.decode = (...args) => {
  const message = decodeHop(...args)
  if (message.reservation !== undefined) {
    limitOf.set(message.reservation, message.limit)
  }
  return message
}

const seed = process.env.DESCORD_PEER_SEED
const privateKey = seed ? await generateKeyPairFromSeed('Ed25519', Buffer.from(seed, 'hex')) : await generateKeyPair('Ed25519')

const node = await createLibp2p({
  privateKey,
  addresses: { listen: [] },
  transports: [tcp(), circuitRelayTransport({ reservationCompletionTimeout: 20_000, maxInboundStopStreams: 4096, maxOutboundStopStreams: 4096 })],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  // More identify and ping streams than one at a time: tests ask while the library itself is asking.
  services: { identify: identify({ maxInboundStreams: 16, maxOutboundStreams: 16 }), ping: ping({ maxInboundStreams: 64, maxOutboundStreams: 64 }) },
  // The library's own guards against strangers would count the tests' many connections from one address as an attack,
  // and its pings would end a connection that a slow machine answers late.
  connectionManager: { inboundConnectionThreshold: 10_000, maxConnections: 20_000, maxIncomingPendingConnections: 10_000 },
  connectionMonitor: { abortConnectionOnPingFailure: false }
})

const reservations = node.components.transportManager.getTransports()
  .find(transport => transport.reservationStore !== undefined).reservationStore
// A relay that could not be reached once would be refused for as long as this process lives, and relays restart here.
reservations.relayFilter = { has: () => false, add () {} }
const identified = new Map()

const isCircuit = address => address.toString().includes(CIRCUIT)

node.addEventListener('connection:open', ({ detail }) => emit('connection', {
  peer: detail.remotePeer.toString(), relayed: isCircuit(detail.remoteAddr), direction: detail.direction
}))
node.addEventListener('connection:close', ({ detail }) => emit('disconnection', {
  peer: detail.remotePeer.toString(), relayed: isCircuit(detail.remoteAddr)
}))
node.addEventListener('peer:identify', ({ detail }) => identified.set(detail.peerId.toString(), {
  agent: detail.agentVersion ?? '',
  protocol_version: detail.protocolVersion ?? '',
  protocols: detail.protocols,
  listen_addrs: detail.listenAddrs.map(String),
  observed: detail.observedAddr?.toString() ?? null,
  signed_record: detail.signedPeerRecord !== undefined
}))

for (const [protocol, listen] of Object.entries(LISTENERS)) {
  await node.handle(protocol, async stream => {
    try {
      await listen(stream)
    } catch (error) {
      console.error(protocol, error)
      stream.abort(error)
    }
  }, STREAMS)
}

function relayIdOf (relay) {
  const id = multiaddr(relay).getComponents().findLast(component => component.name === 'p2p')?.value
  if (id === undefined) {
    throw new Error(`no /p2p/ id in ${relay}`)
  }
  return peerIdFromString(id)
}

function reservationFields (relayId) {
  const reservation = reservations.getReservation(relayId)
  if (reservation === undefined) {
    throw new Error(`no reservation on ${relayId}`)
  }
  const limit = limitOf.get(reservation)
  return {
    expires: Number(reservation.expire),
    addrs: reservation.addrs.map(bytes => multiaddr(bytes).toString()),
    limit_data: Number(limit?.data ?? 0n),
    limit_duration: limit?.duration ?? 0,
    voucher: reservation.voucher !== undefined
  }
}

function connectionTo (peer) {
  const open = node.getConnections(peerIdFromString(peer)).filter(connection => connection.status === 'open')
  const connection = open.findLast(({ remoteAddr }) => isCircuit(remoteAddr)) ?? open.at(-1)
  if (connection === undefined) {
    throw new Error(`no connection to ${peer}`)
  }
  return connection
}

const streamTo = (peer, protocol) => connectionTo(peer).newStream(protocol, STREAMS)

async function refresh ({ relay }) {
  const relayId = relayIdOf(relay)
  const held = reservations.getReservation(relayId)
  if (held === undefined) {
    throw new Error(`no reservation on ${relayId}`)
  }
  // The store refreshes what is about to expire: say that it is, and let the library do what it does then.
  held.expire = BigInt(Math.floor(Date.now() / 1000) + 1)
  await reservations.addRelay(relayId, 'configured')
  return reservationFields(relayId)
}

const commands = {
  ...dhtCommands(node),
  ...mdnsCommands(node),
  async reserve ({ relay }) {
    const relayId = relayIdOf(relay)
    if (reservations.hasReservation(relayId)) {
      return refresh({ relay })
    }
    await node.components.transportManager.listen([multiaddr(relay).encapsulate(CIRCUIT)])
    return reservationFields(relayId)
  },
  refresh,
  async connect ({ addr }) {
    const connection = await node.dial(multiaddr(addr), { force: true })
    return { relayed: isCircuit(connection.remoteAddr), peer: connection.remotePeer.toString(), limited: connection.limits !== undefined }
  },
  async ping ({ peer }) {
    // The library's own ping picks the connection itself; this one measures the circuit, with its protocol.
    const stream = await streamTo(peer, '/ipfs/ping/1.0.0')
    const payload = crypto.getRandomValues(new Uint8Array(32))
    const pong = new Promise((resolve, reject) => {
      const pieces = []
      stream.addEventListener('message', ({ data }) => {
        pieces.push(Buffer.from(data.subarray()))
        if (pieces.reduce((sum, piece) => sum + piece.length, 0) >= payload.length) {
          resolve(Buffer.concat(pieces))
        }
      })
      stream.addEventListener('close', ({ error }) => reject(error ?? new Error('closed before the pong')))
    })
    const started = performance.now()
    stream.send(payload)
    const answer = await pong
    const rtt = performance.now() - started
    await stream.close()
    if (!answer.equals(payload)) {
      throw new Error('the pong differs from the ping')
    }
    return { rtt_ms: rtt }
  },
  send: async ({ peer, ...fields }) => push(await streamTo(peer, PUSH), fields),
  fetch: async ({ peer, ...fields }) => pull(await streamTo(peer, PULL), fields),
  echo_half_close: async ({ peer, ...fields }) => echoHalfClose(await streamTo(peer, HALF_CLOSE), fields),
  flood: async ({ peer }) => flood(await streamTo(peer, PUSH)),
  stall: async ({ peer, ...fields }) => stall(await streamTo(peer, STALL), fields),
  async ask ({ peer, protocol, data }) {
    let stream
    try {
      stream = await streamTo(peer, protocol)
    } catch (error) {
      if (error.name === 'UnsupportedProtocolError') {
        return { spoken: false, said: '' }
      }
      throw error
    }
    return { spoken: true, said: await ask(stream, Buffer.from(data, 'hex')) }
  },
  async disconnect ({ peer }) {
    await node.hangUp(peerIdFromString(peer))
    return {}
  },
  async connections () {
    return {
      connections: node.getConnections().map(connection => ({
        peer: connection.remotePeer.toString(),
        addr: connection.remoteAddr.toString(),
        relayed: isCircuit(connection.remoteAddr),
        direction: connection.direction,
        limited: connection.limits !== undefined,
        streams: connection.streams.length
      }))
    }
  },
  async listen ({ addr }) {
    await node.components.transportManager.listen([multiaddr(addr)])
    return { addrs: node.getMultiaddrs().map(String) }
  },
  async identify ({ peer }) {
    // The library identifies each new connection by itself and the remote allows one identify stream at a time: wait for it.
    for (const deadline = AbortSignal.timeout(5000); !identified.has(peer) && !deadline.aborted;) {
      await once(node, 'peer:identify', { signal: deadline }).catch(() => {})
    }
    if (!identified.has(peer)) {
      await node.services.identify.identify(connectionTo(peer))
    }
    return identified.get(peer)
  }
}

process.on('unhandledRejection', error => console.error('unhandled', describe(error)))

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.resolve('libp2p'))))
emit('ready', { peer_id: node.peerId.toString(), implementation: 'js', version, hop: RELAY_V2_HOP_CODEC })
await serveCommands(commands)
// Streams and timers of the library may outlive a polite stop: the peer's word was EOF on stdin, so end within a second.
setTimeout(() => process.exit(0), 1000).unref()
await node.stop()
process.exit(0)
