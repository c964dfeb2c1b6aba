// The hop message codec of @libp2p/circuit-relay-v2, which its package does not export: the very module object that the
// library uses, found beside its entry point.
const entry = import.meta.resolve('@libp2p/circuit-relay-v2')
export const { HopMessage, StopMessage, Status } = await import(new URL('./pb/index.js', entry).href)
