// Prerendered while building: what a build writes ahead must not differ
// between two builds of the same inputs.
export default function About() {
  return (
    <main>
      <h1>About</h1>
      <p>honeydue keeps a list of what is due in the homes that you look after.</p>
    </main>
  )
}
