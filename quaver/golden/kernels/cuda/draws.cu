// The random sources of quaver/golden/random_bits.py and quaver/golden/lfsr.py; matrices.cu moves a state far.

// The state so many (at most 16) steps of the LFSR on. S: the taps, and `leap`, the steps to the next sum's places.
template <class S> __device__ __forceinline__ unsigned stepped(unsigned state, int steps) {
  unsigned fresh = (state >> (S::tap0 - steps)) ^ (state >> (S::tap1 - steps)) ^ (state >> (S::tap2 - steps)) ^
                   (state >> (S::tap3 - steps));
  return (state << steps) | (fresh & ((1u << steps) - 1));
}

// A state and the 32 bits that follow it: so far the exclusive-or with itself some steps on needs no new bits.
template <class S> struct Ahead {
  unsigned state, next;
  __device__ __forceinline__ explicit Ahead(unsigned state)
      : state(state), next(stepped<S>(stepped<S>(state, 16), 16)) {}
  __device__ __forceinline__ void next_sum() {
    state ^= (state << S::leap) | (next >> (32 - S::leap));
    next ^= next << S::leap;
  }
};

// states[product][run][place]: those of one source before the first sum of every run. seeds[product] is its state at
// place 0 of sum 0. From sum to sum the state is its exclusive-or with that 2**step places on.
extern "C" __global__ void states(const unsigned* matrices, const unsigned* seeds, unsigned* states, int places,
                                  int runs, Word first_sum, Word sums_of_run, int step) {
  int place = blockIdx.x * 256 + threadIdx.x, run = blockIdx.y % runs, product = blockIdx.y / runs;
  if (place >= places) return;
  unsigned state = moved_by(matrices, place, seeds[product]);
  Word sums = first_sum + run * sums_of_run;
  for (int power = 0; sums; power++, sums >>= 1)
    if (sums & 1) state ^= moved(matrices, power + step, state);
  states[(size_t)blockIdx.y * places + place] = state;
}

// The random bits of the first sum of output (m, n), from the states of a product's only run.
__device__ __forceinline__ unsigned result_draw(const unsigned* rows, const unsigned* columns,
                                                const unsigned* diagonals, int product, int width_a, int width_b,
                                                int m, int n) {
  unsigned state = rows[(size_t)product * width_a + m] ^ columns[(size_t)product * width_b + n] ^
                   diagonals[(size_t)product * (3 * width_a + width_b) + 3 * m + n];
  return state & (unsigned)((1ULL << Program::random_bits) - 1);
}
