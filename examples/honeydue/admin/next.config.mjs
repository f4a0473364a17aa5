/** @type {import('next').NextConfig} */
export default {
  output: 'standalone',
  // Both roots are this directory: guessed from lock files further up, they
  // would move `server.js` inside the output.
  outputFileTracingRoot: import.meta.dirname,
  turbopack: { root: import.meta.dirname },
  // Equal inputs give equal builds: the builder derives the id from them.
  generateBuildId: () => process.env.SKEP_BUILD_ID ?? 'development',
  poweredByHeader: false,
  images: {
    // The container's root is read-only, so resized pictures are not kept.
    maximumDiskCacheSize: 0,
  },
}
