// Weight updates, an element after the other in the order of memory, as quaver/golden/update has them.
//
// A thread's elements lie 256 apart; the state of each line's LFSR leaps from one to the next by a matrix.
// matrices[32 * b] moves an LFSR 2**b draws of random_bits on.

static constexpr int elements = 16, lines = Program::lines;

struct Draws {
  unsigned state[lines];
  __device__ __forceinline__ void start(const unsigned* matrices, const unsigned* seeds, Word index) {
    for (int line = 0; line < lines; line++)
      if (Program::drawn) state[line] = moved_by(matrices, index + 1, seeds[line]);
  }
  __device__ __forceinline__ void leap(const unsigned* matrices) {
    for (int line = 0; line < lines; line++)
      if (Program::drawn) state[line] = moved(matrices, 8, state[line]);
  }
  __device__ __forceinline__ unsigned of(int line) const {
    return Program::drawn ? state[line] & (unsigned)((1ULL << Program::random_bits) - 1) : 0;
  }
};

template <class Element> __device__ __forceinline__
void for_each(const unsigned* matrices, const unsigned* seeds, long long count, Element element) {
  const long long first = (long long)blockIdx.x * 256 * elements + threadIdx.x;
  if (first >= count) return;
  Draws draws;
  draws.start(matrices, seeds, first);
  for (int n = 0; n < elements; n++) {
    const long long i = first + 256 * n;
    if (i >= count) return;
    element(i, draws);
    draws.leap(matrices);
  }
}
