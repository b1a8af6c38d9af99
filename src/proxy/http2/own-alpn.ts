/** The ALPN name by which two of us know each other: it is `h2`, and what one says of its app the other believes (http1/unreached.ts). */
export const ownHttp2 = 'isthmus-h2/1'
