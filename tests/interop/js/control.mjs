// The control protocol that every interoperability peer speaks, whatever its language: one JSON object a line.
// Commands come in on stdin as {"id": n, "cmd": name, ...} and run concurrently; each is answered once on stdout with
// {"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": text}. Everything else on stdout is {"event": name, ...}.
// The process ends when stdin does. Logs go to stderr.
import { createInterface } from 'node:readline'

/** Prints one event line. */
export function emit (event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

/** Runs commands of `handlers` (name -> async (arguments) -> result fields) until stdin ends. */
export async function serveCommands (handlers) {
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() !== '') {
      void answer(handlers, line)
    }
  }
}

async function answer (handlers, line) {
  let id = null
  let reply
  try {
    const { id: requestId, cmd, ...fields } = JSON.parse(line)
    id = requestId ?? null
    if (!Object.hasOwn(handlers, cmd)) {
      throw new Error(`unknown command ${JSON.stringify(cmd)}`)
    }
    reply = { id, ok: true, ...await handlers[cmd](fields) }
  } catch (error) {
    console.error(error)
    reply = { id, ok: false, error: describe(error) }
  }
  process.stdout.write(JSON.stringify(reply) + '\n')
}

/** An error's name, text and causes in one line. */
export function describe (error) {
  const causes = error?.errors ?? (error?.cause === undefined ? [] : [error.cause])
  const text = `${error?.name ?? 'Error'}: ${error?.message ?? error}`
  return [text, ...causes.map(describe)].join('; ')
}
