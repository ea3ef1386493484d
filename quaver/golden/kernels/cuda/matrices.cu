// States of 32 bits that move by matrices over GF(2): of LFSRs, and of a CRC.
//
// matrices[32 * b + i] is what bit i becomes 2**b places (or draws, or bytes) on.

__device__ __forceinline__ unsigned moved(const unsigned* matrices, int power, unsigned state) {
  unsigned result = 0;
  for (int bit = 0; bit < 32; bit++) result ^= __ldg(matrices + 32 * power + bit) & (0u - ((state >> bit) & 1));
  return result;
}

__device__ __forceinline__ unsigned moved_by(const unsigned* matrices, Word count, unsigned state) {
  for (int power = 0; count; power++, count >>= 1)
    if (count & 1) state = moved(matrices, power, state);
  return state;
}
