// What the admin asks of the API. Every answer is data: a page shows an API
// that is away instead of failing with it.

export type Residence = {
  id: number
  name: string
  city: string
  open_tasks: number
}

export type Answer<T> = { ok: true; value: T } | { ok: false; reason: string }

const timeoutMs = 3000

function address(path: string): string | undefined {
  // Read at each request, so that one build serves every environment.
  const base = process.env.API_URL
  return base ? new URL(path, base).href : undefined
}

async function call<T>(path: string, init?: RequestInit): Promise<Answer<T>> {
  const url = address(path)
  if (!url) {
    return { ok: false, reason: 'API_URL is not set' }
  }
  try {
    const response = await fetch(url, { ...init, cache: 'no-store', signal: AbortSignal.timeout(timeoutMs) })
    if (response.ok) {
      return { ok: true, value: (await response.json()) as T }
    }
    const body = (await response.json().catch(() => ({}))) as { error?: string }
    return { ok: false, reason: body.error ?? `the API answered ${response.status}` }
  } catch (error) {
    console.error(`no answer from ${path}:`, error)
    return { ok: false, reason: 'the API does not answer' }
  }
}

export function listResidences(): Promise<Answer<Residence[]>> {
  return call('/api/residences/')
}

export function createResidence(name: string, city: string): Promise<Answer<Residence>> {
  return call('/api/residences/', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name, city }),
  })
}
