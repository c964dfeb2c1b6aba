// What libp2p 3.x takes for granted and Node 20 lacks. Import this before anything of libp2p: modules are
// evaluated in the order of their import statements.
if (Promise.withResolvers === undefined) {
  Promise.withResolvers = function withResolvers () {
    let resolve
    let reject
    const promise = new this((resolved, rejected) => {
      resolve = resolved
      reject = rejected
    })
    return { promise, resolve, reject }
  }
}
