'use server'

import { revalidatePath } from 'next/cache'

import { createResidence } from '../lib/api'

export type FormState = { message: string }

export async function addResidence(_previous: FormState, form: FormData): Promise<FormState> {
  const answer = await createResidence(field(form, 'name'), field(form, 'city'))
  if (!answer.ok) {
    return { message: `Not added: ${answer.reason}.` }
  }
  revalidatePath('/')
  return { message: `Added ${answer.value.name}.` }
}

function field(form: FormData, name: string): string {
  const value = form.get(name)
  return typeof value === 'string' ? value.trim() : ''
}
