// The stream protocols that the peers run over a circuit, both sides.
//
//   push      dialer: u64 big-endian count, that many bytes, half-close; listener: SHA-256 of them (32 bytes), close
//   pull      dialer: u64 big-endian count, half-close; listener: that many bytes, their SHA-256, close
//   halfclose dialer: bytes, half-close; listener: reads to the end and only then sends the same bytes back, close
//   stall     the listener accepts and never reads
//
// Bytes are an AES-128-CTR key stream: as fast as the link, and no two transfers alike.
import { createCipheriv, createHash } from 'node:crypto'

export const PUSH = '/descord-interop/push/1.0.0'
export const PULL = '/descord-interop/pull/1.0.0'
export const HALF_CLOSE = '/descord-interop/halfclose/1.0.0'
export const STALL = '/descord-interop/stall/1.0.0'

const WRITE_SIZE = 64 * 1024
const HASH_SIZE = 32
const COUNT_SIZE = 8
const WRITES_PER_TURN = 4

let writesSinceTurn = 0

/** Endless pseudo-random bytes of one seed: next(n) gives the next n. */
export function byteSource (seed) {
  const key = createHash('sha256').update(String(seed)).digest().subarray(0, 16)
  const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16))
  const zeros = Buffer.alloc(WRITE_SIZE)
  return { next: n => cipher.update(zeros.subarray(0, n)) }
}

export function encodeCount (n) {
  const bytes = Buffer.alloc(COUNT_SIZE)
  bytes.writeBigUInt64BE(BigInt(n))
  return bytes
}

/**
 * Resolves when a stream whose send() said "no room" has room again; rejects when it closes or `signal` aborts. The
 * stream's own onDrain() keeps the promise of its first drain for ever, so from the second time on it waits for nothing.
 */
function drained (stream, signal) {
  if (!stream.writableNeedsDrain) {
    return new Promise(resolve => setImmediate(resolve))
  }
  return new Promise((resolve, reject) => {
    const settle = (finish, value) => {
      stream.removeEventListener('drain', onDrain)
      stream.removeEventListener('close', onClose)
      signal?.removeEventListener('abort', onAbort)
      finish(value)
    }
    const onDrain = () => settle(resolve)
    const onClose = ({ error }) => settle(reject, error ?? new Error(`stream ${stream.status}`))
    const onAbort = () => settle(reject, signal.reason)
    stream.addEventListener('drain', onDrain)
    stream.addEventListener('close', onClose)
    signal?.addEventListener('abort', onAbort)
    if (stream.writeStatus === 'closed') {
      onClose({})
    }
  })
}

/**
 * Sends one piece and waits while the stream has no room for another. A stream with room takes pieces without ever
 * leaving the microtask queue, where no socket is read and no reset arrives: every so often, let the loop turn.
 */
export async function write (stream, bytes) {
  if (!stream.send(bytes)) {
    await drained(stream)
  } else if (++writesSinceTurn >= WRITES_PER_TURN) {
    writesSinceTurn = 0
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** Sends n bytes of a source; returns their SHA-256. */
async function sendBytes (stream, source, n) {
  const hash = createHash('sha256')
  for (let left = n; left > 0;) {
    const piece = source.next(Math.min(left, WRITE_SIZE))
    hash.update(piece)
    await write(stream, piece)
    left -= piece.length
  }
  return hash.digest()
}

/**
 * Gives everything that arrives to `take`, piece by piece, until the remote half-closes. Rejects when the stream is
 * reset. Not the stream's async iterator: that one queues what is not yet taken, and here bytes are taken at once.
 */
export async function readToEnd (stream, take) {
  const { promise, resolve, reject } = Promise.withResolvers()
  const onMessage = ({ data }) => {
    for (const piece of data instanceof Uint8Array ? [data] : data) {
      take(piece)
    }
  }
  const onClose = ({ error }) => {
    if (error === undefined || error === null) {
      resolve()
    } else {
      reject(error)
    }
  }
  stream.addEventListener('message', onMessage)
  stream.addEventListener('end', resolve)
  stream.addEventListener('close', onClose)
  if (stream.readableEnded) {
    resolve()
  }
  await promise
  if (stream.status === 'reset' || stream.status === 'aborted') {
    throw new Error(`stream ${stream.status}`)
  }
}

async function collect (stream) {
  const pieces = []
  await readToEnd(stream, piece => pieces.push(Buffer.from(piece)))
  return Buffer.concat(pieces)
}

// --- listener side -------------------------------------------------------------------------------------------------

async function answerPush (stream) {
  const hash = createHash('sha256')
  let header = Buffer.alloc(0)
  let announced = -1n
  let received = 0n
  await readToEnd(stream, piece => {
    let body = piece
    if (announced < 0n) {
      header = Buffer.concat([header, piece])
      if (header.length < COUNT_SIZE) {
        return
      }
      announced = header.readBigUInt64BE(0)
      body = header.subarray(COUNT_SIZE)
    }
    received += BigInt(body.length)
    hash.update(body)
  })
  if (received !== announced) {
    throw new Error(`push announced ${announced} bytes and sent ${received}`)
  }
  await write(stream, hash.digest())
  await stream.close()
}

async function answerPull (stream) {
  const request = await collect(stream)
  if (request.length !== COUNT_SIZE) {
    throw new Error(`pull request of ${request.length} bytes`)
  }
  const count = Number(request.readBigUInt64BE(0))
  const digest = await sendBytes(stream, byteSource(`pull ${count}`), count)
  await write(stream, digest)
  await stream.close()
}

async function answerHalfClose (stream) {
  const bytes = await collect(stream)
  for (let at = 0; at < bytes.length; at += WRITE_SIZE) {
    await write(stream, bytes.subarray(at, at + WRITE_SIZE))
  }
  await stream.close()
}

async function answerStall (stream) {
  stream.pause()
}

/** Protocol id -> handler of one inbound stream. */
export const LISTENERS = {
  [PUSH]: answerPush,
  [PULL]: answerPull,
  [HALF_CLOSE]: answerHalfClose,
  [STALL]: answerStall
}

// --- dialer side ---------------------------------------------------------------------------------------------------

/** Says `data` by any protocol; what the other end says to it before it ends the stream, in hex. */
export async function ask (stream, data) {
  const said = collect(stream)
  if (data.length > 0) {
    await write(stream, data)
  }
  await stream.close()
  return (await said).toString('hex')
}

export async function push (stream, { bytes, seed = 0 }) {
  const started = performance.now()
  const answer = collect(stream)
  answer.catch(() => {}) // a reset reaches the writer as well; whoever awaits first reports it
  await write(stream, encodeCount(bytes))
  const local = await sendBytes(stream, byteSource(seed), bytes)
  await stream.close()
  const remote = await answer
  if (remote.length !== HASH_SIZE) {
    throw new Error(`push of ${bytes} bytes was answered with ${remote.length} bytes: the stream ended early`)
  }
  return {
    sha256_local: local.toString('hex'),
    sha256_remote: remote.toString('hex'),
    seconds: (performance.now() - started) / 1000
  }
}

export async function pull (stream, { bytes }) {
  const started = performance.now()
  const hash = createHash('sha256')
  const tail = Buffer.alloc(HASH_SIZE)
  let received = 0
  const arrived = readToEnd(stream, piece => {
    const body = Math.min(piece.length, Math.max(0, bytes - received))
    hash.update(piece.subarray(0, body))
    tail.set(piece.subarray(body, body + HASH_SIZE), Math.max(0, received - bytes))
    received += piece.length
  })
  arrived.catch(() => {})
  await write(stream, encodeCount(bytes))
  await stream.close()
  await arrived
  if (received !== bytes + HASH_SIZE) {
    throw new Error(`pull of ${bytes} bytes gave ${received}`)
  }
  return {
    sha256_local: hash.digest('hex'),
    sha256_remote: tail.toString('hex'),
    seconds: (performance.now() - started) / 1000
  }
}

export async function echoHalfClose (stream, { bytes }) {
  const source = byteSource(`half-close ${bytes}`)
  const sent = []
  const answer = collect(stream)
  answer.catch(() => {})
  for (let left = bytes; left > 0;) {
    const piece = source.next(Math.min(left, WRITE_SIZE))
    sent.push(piece)
    await write(stream, piece)
    left -= piece.length
  }
  await stream.close()
  const returned = await answer
  return { equal: Buffer.concat(sent).equals(returned) }
}

/** Writes until the stream or its connection ends; the error is the result, not a failure. */
export async function flood (stream) {
  const ended = new Promise(resolve => stream.addEventListener('close', ({ error }) => resolve(error)))
  const source = byteSource('flood')
  let sent = 0
  try {
    await write(stream, encodeCount(2 ** 52))
    for (;;) {
      await write(stream, source.next(WRITE_SIZE))
      sent += WRITE_SIZE
    }
  } catch (error) {
    const reason = await Promise.race([ended, new Promise(resolve => setTimeout(resolve, 1000))]) ?? error
    return { sent, error: `${reason.name}: ${reason.message}` }
  }
}

/** Writes at most `bytes` to a listener that never reads, until nothing has moved for `quiet` seconds. */
export async function stall (stream, { bytes = 0, quiet = 2 }) {
  const source = byteSource('stall')
  let sent = 0
  while (sent < bytes) {
    if (!stream.send(source.next(Math.min(WRITE_SIZE, bytes - sent)))) {
      sent += Math.min(WRITE_SIZE, bytes - sent)
      try {
        await drained(stream, AbortSignal.timeout(quiet * 1000))
      } catch (error) {
        return { sent: sent - stream.writeBufferLength, blocked: true, error: `${error.name}: ${error.message}` }
      }
    } else {
      sent += Math.min(WRITE_SIZE, bytes - sent)
    }
  }
  return { sent, blocked: false }
}
