export const dynamic = 'force-dynamic'

// The admin is healthy without the API: it then says so on its page. A probe
// that failed along with the API would take down both.
export function GET() {
  return Response.json(
    { status: 'ok', release: process.env.RELEASE ?? 'development' },
    { headers: { 'cache-control': 'no-store' } },
  )
}
