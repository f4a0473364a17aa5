import Image from 'next/image'
import Link from 'next/link'

import { listResidences } from '../lib/api'
import { ResidenceForm } from './residence-form'

// The list comes from the API at each request, never from the build.
export const dynamic = 'force-dynamic'

export default async function Page() {
  const residences = await listResidences()
  return (
    <main>
      <h1>Residences</h1>
      <Image src="/house.png" alt="A house beside a hive" width={320} height={200} loading="eager" />
      {residences.ok ? (
        <ul>
          {residences.value.map((residence) => (
            <li key={residence.id}>
              {residence.name}
              {residence.city && `, ${residence.city}`} ({residence.open_tasks} open)
            </li>
          ))}
          {residences.value.length === 0 && <li>None yet.</li>}
        </ul>
      ) : (
        <p role="alert">No list: {residences.reason}.</p>
      )}
      <ResidenceForm />
      <Link href="/about">About</Link>
    </main>
  )
}
