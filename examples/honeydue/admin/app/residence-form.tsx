'use client'

import { useActionState } from 'react'

import { addResidence } from './actions'

export function ResidenceForm() {
  const [state, action, pending] = useActionState(addResidence, { message: '' })
  return (
    <form action={action}>
      <label>
        Name <input name="name" required maxLength={120} />
      </label>
      <label>
        City <input name="city" maxLength={120} />
      </label>
      <button disabled={pending}>Add</button>
      <p role="status">{state.message}</p>
    </form>
  )
}
