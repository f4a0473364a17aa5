import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import sharp from 'sharp'

export const dynamic = 'force-dynamic'

const widths = { small: 64, medium: 160, large: 320 } as const

// GET /api/thumbnail?size=small|medium|large answers the house as WebP.
export async function GET(request: Request) {
  const size = new URL(request.url).searchParams.get('size') ?? 'medium'
  if (!Object.hasOwn(widths, size)) {
    return Response.json({ error: `size is one of ${Object.keys(widths).join(', ')}` }, { status: 400 })
  }
  const original = await readFile(join(process.cwd(), 'public', 'house.png'))
  const { data, info } = await sharp(original)
    .resize({ width: widths[size as keyof typeof widths] })
    .webp()
    .toBuffer({ resolveWithObject: true })
  return new Response(new Uint8Array(data), {
    headers: {
      'content-type': 'image/webp',
      'x-image-size': `${info.width}x${info.height}`,
      'cache-control': 'public, max-age=3600',
    },
  })
}
