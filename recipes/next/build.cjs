// Runs `next build` so that equal inputs give equal outputs, whatever the machine, and lays out what an image
// needs: `/out/modules` with node_modules, free of native packages, and `/out/app` with all the rest.
//
// `/skep/inputs.json` says for which architectures, with which variables, and what the lock file holds.

'use strict'

const { spawnSync } = require('node:child_process')
const { createHash, createHmac } = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const { deflateSync, inflateSync } = require('node:zlib')

const APP = '/app'
const OUT = '/out'
const SECRET = '/run/secrets/next'
// Where both sides of `seal.cjs` leave their traces.
const SEALS = '/tmp/skep-seals'

// When everything was made, in milliseconds.
const MADE = Number(process.env.SOURCE_DATE_EPOCH) * 1000
// Far enough that no build ever replaces the keys.
const NEVER = Date.UTC(2999, 0, 1)

function fail(message) {
  console.error(`error: ${message}`)
  process.exit(1)
}

function readKey() {
  const text = fs.readFileSync(SECRET, 'utf8').trim()
  const bytes = Buffer.from(text, 'base64')
  if (bytes.length !== 32 || bytes.toString('base64') !== text) {
    fail('the key is not 32 bytes in base64; `openssl rand -base64 32` makes one')
  }
  return { text, derive: (what) => createHmac('sha256', bytes).update(`skep next 1 ${what}`) }
}

// Every file below `directory` as its path from there and what it is, sorted.
function* walk(directory, skip = () => false, below = '') {
  const entries = fs.readdirSync(path.join(directory, below), { withFileTypes: true })
  entries.sort((one, other) => (one.name < other.name ? -1 : 1))
  for (const entry of entries) {
    const at = path.join(below, entry.name)
    if (skip(at)) continue
    if (entry.isDirectory()) yield* walk(directory, skip, at)
    else yield { at, file: path.join(directory, at), isLink: entry.isSymbolicLink() }
  }
}

function* sources() {
  yield* walk(APP, (at) => at === 'node_modules' || at === '.next')
}

// One name for one set of inputs. Keyed, so that it tells nothing about them.
function buildId(key, inputs) {
  const hash = key.derive('build')
  hash.update(JSON.stringify([inputs.env, inputs.packages]))
  for (const { at, file, isLink } of sources()) {
    const content = isLink ? fs.readlinkSync(file) : fs.readFileSync(file)
    hash.update(JSON.stringify([at, isLink, createHash('sha256').update(content).digest('hex')]))
  }
  return hash.digest('base64url').slice(0, 21)
}

// Values of such variables become part of the output, so that a forgotten one is only noticed in production.
function checkPublicVariables(env) {
  const known = new Set(Object.keys(env))
  for (const name of ['.env', '.env.production', '.env.local', '.env.production.local']) {
    const file = path.join(APP, name)
    const text = fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : ''
    for (const [, variable] of text.matchAll(/^\s*(?:export\s+)?(\w+)\s*=/gm)) known.add(variable)
  }
  for (const { at, file, isLink } of sources()) {
    if (isLink || !/\.[cm]?[jt]sx?$/.test(at)) continue
    for (const [, variable] of fs.readFileSync(file, 'utf8').matchAll(/\bprocess\.env\.(NEXT_PUBLIC_\w+)/g)) {
      if (!known.has(variable)) {
        fail(`\`${at}\` reads ${variable}, whose value becomes part of the build, and nothing sets it; ` +
          `give it in \`env\` of next_app, with None if it shall stay unset`)
      }
    }
  }
}

// The keys that protect previews; Next makes new ones where it finds none.
function writePreviewKeys(key) {
  const hex = (what) => key.derive(what).digest('hex')
  const keys = {
    previewModeId: hex('preview id').slice(0, 32),
    previewModeSigningKey: hex('preview signing'),
    previewModeEncryptionKey: hex('preview encryption'),
    expireAt: NEVER,
  }
  const cache = path.join(APP, '.next', 'cache')
  fs.mkdirSync(cache, { recursive: true })
  fs.writeFileSync(path.join(cache, '.previewinfo'), JSON.stringify(keys))
  return keys
}

function runNext(key, id) {
  const next = path.join(APP, 'node_modules', 'next', 'dist', 'bin', 'next')
  if (!fs.existsSync(next)) fail('package-lock.json has no package `next`')
  const env = {
    ...process.env,
    NEXT_SERVER_ACTIONS_ENCRYPTION_KEY: key.text,
    NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ''} --require=/skep/seal.cjs`.trim(),
    SKEP_BUILD_ID: id,
    SKEP_SEALS: SEALS,
    SKEP_SEAL_KEY: key.derive('seal').digest('hex'),
  }
  fs.writeFileSync(SEALS, '')
  const { status, signal } = spawnSync(process.execPath, [next, 'build'], { cwd: APP, env, stdio: 'inherit' })
  if (status !== 0) fail(`\`next build\` ended with ${signal ?? status}`)
}

function check(id, keys) {
  const dist = path.join(APP, '.next')
  const read = (name) => {
    const file = path.join(dist, name)
    if (!fs.existsSync(file)) fail(`\`next build\` wrote no .next/${name}; leave \`distDir\` as it is`)
    return fs.readFileSync(file, 'utf8')
  }
  if (read('BUILD_ID') !== id) {
    fail('each build would have another id; write in next.config\n\n' +
      '    generateBuildId: () => process.env.SKEP_BUILD_ID,\n')
  }
  if (!fs.existsSync(path.join(dist, 'standalone'))) {
    fail("there is no standalone output; write in next.config\n\n    output: 'standalone',\n")
  }
  if (!fs.existsSync(path.join(dist, 'standalone', 'server.js'))) {
    fail('server.js is not at the root of the standalone output; write in next.config\n\n' +
      '    outputFileTracingRoot: import.meta.dirname,\n')
  }
  const { preview } = JSON.parse(read('prerender-manifest.json'))
  if (preview.previewModeId !== keys.previewModeId) fail('`next build` did not take the preview keys')
  const seals = fs.readFileSync(SEALS, 'utf8')
  const count = (letter) => seals.split(letter).length
  if (count('e') !== count('w')) fail('values of server actions were encrypted in a way that seal.cjs does not know')
}

// A page that is finished at the time of the request carries what was cached for it, when that was, and all in
// the order in which it came about: `<length>:<state><cache>`, the cache in JSON, and usually deflated.
function settled(postponed) {
  const [prefix, length] = /^(\d+):/.exec(postponed) ?? fail('a page was postponed in a way that is not known here')
  const start = prefix.length + Number(length)
  const tail = postponed.slice(start)
  if (tail === 'null') return postponed
  const isPlain = tail.startsWith('{')
  const text = isPlain ? tail : inflateSync(Buffer.from(tail, 'base64')).toString()
  const isTime = (name, value) => name === 'timestamp' && typeof value === 'number'
  const cache = JSON.parse(text, (name, value) => (isTime(name, value) ? MADE : value))
  for (const [kind, entries] of Object.entries(cache.store)) {
    cache.store[kind] = Object.fromEntries(Object.entries(entries).sort(([one], [other]) => (one < other ? -1 : 1)))
  }
  const json = JSON.stringify(cache)
  return postponed.slice(0, start) + (isPlain ? json : deflateSync(json).toString('base64'))
}

function settlePages(server) {
  for (const { file } of walk(server)) {
    if (!file.endsWith('.meta')) continue
    const meta = JSON.parse(fs.readFileSync(file, 'utf8'))
    if (typeof meta.postponed !== 'string') continue
    meta.postponed = settled(meta.postponed)
    fs.writeFileSync(file, JSON.stringify(meta))
  }
}

const exists = (file) => fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined

function removed(directory) {
  if (!exists(directory)) return false
  fs.rmSync(directory, { recursive: true })
  return true
}

// Native packages leave an empty directory behind, for the recipe to fill with the ones of each platform.
function takeOutNative(root, inputs) {
  for (const variant of inputs.variants) {
    const paths = Object.values(variant)
    if (paths.filter((at) => removed(path.join(root, at))).length === 0) continue
    for (const arch of inputs.architectures) {
      if (!variant[arch]) fail(`the app needs \`${paths[0]}\`, and package-lock.json has no such package for ${arch}`)
    }
    fs.mkdirSync(path.join(root, variant.amd64 ?? variant.arm64), { recursive: true })
  }
  for (const at of inputs.whole) {
    if (removed(path.join(root, at))) fs.mkdirSync(path.join(root, at))
  }
}

function refuseNative(root) {
  for (const { at, file, isLink } of walk(root)) {
    if (!isLink && isProgram(file)) {
      fail(`\`${at}\` is native code for the machine that built it, and of no dependency that package-lock.json ` +
        'lists with a variant for each machine; if one package holds them all, name it in `whole` of next_app')
    }
  }
}

// Whether a file is in the executable and linkable format.
function isProgram(file) {
  const start = Buffer.alloc(4)
  const open = fs.openSync(file)
  fs.readSync(open, start, 0, 4, 0)
  fs.closeSync(open)
  return start.toString('latin1') === '\x7fELF'
}

function layOut(inputs) {
  const copy = (from, to) => {
    if (exists(from)) fs.cpSync(from, to, { recursive: true, verbatimSymlinks: true })
  }
  const standalone = path.join(APP, '.next', 'standalone')
  takeOutNative(standalone, inputs)
  const modules = path.join(OUT, 'modules', 'node_modules')
  const app = path.join(OUT, 'app')
  fs.mkdirSync(modules, { recursive: true })
  copy(path.join(standalone, 'node_modules'), modules)
  fs.rmSync(path.join(standalone, 'node_modules'), { recursive: true, force: true })
  copy(standalone, app)
  copy(path.join(APP, 'public'), path.join(app, 'public'))
  copy(path.join(APP, '.next', 'static'), path.join(app, '.next', 'static'))
  for (const name of ['cache', 'diagnostics', 'trace', 'trace-build']) {
    fs.rmSync(path.join(app, '.next', name), { recursive: true, force: true })
  }
  // Lists of the files that each page was traced to; they name the native packages of this machine.
  for (const { file } of walk(app)) if (file.endsWith('.nft.json')) fs.rmSync(file)
  settlePages(path.join(app, '.next', 'server'))
  refuseNative(OUT)
}

const inputs = JSON.parse(fs.readFileSync('/skep/inputs.json', 'utf8'))
const key = readKey()
checkPublicVariables(inputs.env)
const id = buildId(key, inputs)
const keys = writePreviewKeys(key)
runNext(key, id)
check(id, keys)
layOut(inputs)
