// Bit streams packed in words of 64: what two of them count, an output a thread. After quaver/golden/kernels/bitstream.py.
//
// A's streams are (M, K, words), those of B (K, words, N): neighbouring threads read neighbouring words. Signs, 1 where
// the operand is negative, are (M, K) and (K, N).

// Cycles in which both are 1, up where the signs are equal, down where not.
extern "C" __global__ void signed_ones(const Word* a, const unsigned char* a_negative, const Word* b,
                                       const unsigned char* b_negative, long long* counts, int M, int N, int K,
                                       int words) {
  const size_t output = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (output >= (size_t)M * N) return;
  const size_t m = output / N, n = output % N;
  long long count = 0;
  for (int k = 0; k < K; k++) {
    int ones = 0;
    for (int w = 0; w < words; w++)
      ones += __popcll(a[(m * K + k) * words + w] & b[((size_t)k * words + w) * N + n]);
    count += a_negative[m * K + k] != b_negative[(size_t)k * N + n] ? -ones : ones;
  }
  counts[output] = count;
}

// Cycles in which they differ.
extern "C" __global__ void differing(const Word* a, const Word* b, long long* counts, int M, int N, int K, int words) {
  const size_t output = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (output >= (size_t)M * N) return;
  const size_t m = output / N, n = output % N, all = (size_t)K * words;
  long long count = 0;
  for (size_t i = 0; i < all; i++) count += __popcll(a[m * all + i] ^ b[i * N + n]);
  counts[output] = count;
}
