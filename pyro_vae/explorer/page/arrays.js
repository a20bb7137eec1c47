/** The arrays that the page carries, packed as text. */

/** Reads arrays out of the page's blobs, each of which is unpacked once. */
export class Arrays {
  constructor() {
    this.buffers = new Map();
  }

  /**
   * Unpacks a blob, so that its arrays can be read.
   * @param {number} number
   */
  async load(number) {
    if (this.buffers.has(number)) return;
    const element = document.getElementById(`blob-${number}`);
    this.buffers.set(number, await unpack(element.textContent));
    element.remove();
  }

  /**
   * Returns an array of floats.
   * @param {object} reference What the package wrote of the array.
   * @returns {Float32Array}
   */
  floats(reference) {
    const { kind, offset, size } = reference;
    const buffer = this.buffers.get(reference.blob);
    if (kind === "float32") return new Float32Array(buffer, offset, size);
    if (kind === "uint8") return Float32Array.from(this.bytes(reference));
    const scales = this.floats(reference.scales);
    return widen(new Uint8Array(buffer, offset, 2 * size), scales);
  }

  /** @returns {Uint8Array} An array of bytes. */
  bytes({ blob, offset, size }) {
    return new Uint8Array(this.buffers.get(blob), offset, size);
  }
}

/** Returns the bytes behind a text in base 64 that gzip made smaller. */
async function unpack(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream();
  const bytes = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Response(bytes).arrayBuffer();
}

/**
 * Returns the floats behind 16-bit steps, whose low bytes stand before the
 * high ones, with a scale for each row.
 */
function widen(bytes, scales) {
  const size = bytes.length / 2;
  const row = size / scales.length;
  const floats = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const steps = ((bytes[size + i] << 24) | (bytes[i] << 16)) >> 16;
    floats[i] = steps * scales[Math.floor(i / row)];
  }
  return floats;
}
