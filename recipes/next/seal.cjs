// Loaded before everything else into each process of `next build`. Makes what a server action closes over,
// which prerendered pages carry in encrypted form, the same in every build.
//
// Next takes 16 random bytes, encrypts with AES-GCM, and writes both in base64. A fixed or counted value in
// place of the random one would break the encryption as soon as one key met two contents with it, so it is
// derived from the key and the content, as AES-SIV does. The content is only known after the bytes were
// drawn: they are kept as drawn, replaced when the content is encrypted, and replaced where they are written.
// Both steps leave a letter in a file, so that a Next that does it in another way is noticed.

'use strict'

const { createHmac } = require('node:crypto')
const fs = require('node:fs')

const { SKEP_SEALS: seals, SKEP_SEAL_KEY: key } = process.env

if (seals && key) {
  const LENGTH = 16
  const drawn = new Set()
  const derived = new Map()
  const text = (bytes) => String.fromCharCode(...new Uint8Array(bytes))

  const { getRandomValues } = crypto
  crypto.getRandomValues = function (array) {
    const result = getRandomValues.call(crypto, array)
    if (array instanceof Uint8Array && array.byteLength === LENGTH) drawn.add(text(array))
    return result
  }

  const { encrypt } = crypto.subtle
  crypto.subtle.encrypt = function (algorithm, secret, data) {
    const random = algorithm?.name === 'AES-GCM' && algorithm.iv?.byteLength === LENGTH && text(algorithm.iv)
    if (!random || !drawn.delete(random)) return encrypt.apply(crypto.subtle, arguments)
    const iv = createHmac('sha256', Buffer.from(key, 'hex')).update(data).digest().subarray(0, LENGTH)
    derived.set(random, text(iv))
    fs.appendFileSync(seals, 'e')
    return encrypt.call(crypto.subtle, { ...algorithm, iv }, secret, data)
  }

  const { btoa } = globalThis
  globalThis.btoa = function (value) {
    const random = String(value).slice(0, LENGTH)
    const iv = derived.get(random)
    if (iv === undefined) return btoa(value)
    derived.delete(random)
    fs.appendFileSync(seals, 'w')
    return btoa(iv + value.slice(LENGTH))
  }
}
