// Casts: float32 or float64 values to codes of `Format`, with a draw for each where the rounding takes one, and back.

__device__ __forceinline__ unsigned fixed_code(double steps) {
  const double most = (double)((1 << (Program::width - 1)) - 1);
  steps = steps > most ? most : steps < -most - 1 ? -most - 1 : steps;
  return (unsigned)(int)steps & (unsigned)((1ULL << Program::width) - 1);
}

// How values become codes: the rounding, and how many bits a draw has.
struct Cast {
  int rounding, random_bits;
  unsigned* refused;

  template <class T> __device__ __forceinline__ unsigned operator()(T value, unsigned random) const {
    if (!Program::fixed) return encode_float<Format>(value, (Rounding)rounding, random, random_bits);
    // What lies beyond the ends saturates, however it is rounded; for NaN there is no code.
    const double end = Program::end(), x = value;
    if (x != x) *refused = 1;
    double steps = (x > end ? end : x < -end ? -end : x) * Program::per_step();
    if (rounding == NEAREST)
      steps = rint(steps);
    else if (rounding == TOWARD_ZERO)
      steps = trunc(steps);
    else {
      const long long fine = (long long)floor(steps * (double)(1ULL << random_bits));
      steps = (double)((fine + (long long)random) >> random_bits);
    }
    return fixed_code(steps);
  }

  __device__ __forceinline__ unsigned at(const void* values, bool wide, const unsigned* random, Word i) const {
    const unsigned draw = random ? random[i] : 0;
    return wide ? (*this)(((const double*)values)[i], draw) : (*this)(((const float*)values)[i], draw);
  }
};

__device__ __forceinline__ Out value_of(unsigned code) {
  if (Program::fixed)
    return (Out)((double)((int)(code << (32 - Program::width)) >> (32 - Program::width)) / Program::per_step());
  return (Out)decode<Format, Wide>(code);
}

#define EACH(i, count) \
  for (Word i = (Word)blockIdx.x * 256 + threadIdx.x; i < count; i += (Word)gridDim.x * 256)

extern "C" __global__ void encode_values(const void* values, int wide, int rounding, const unsigned* random,
                                         int random_bits, Code* codes, unsigned* refused, long long count) {
  const Cast cast = {rounding, random_bits, refused};
  EACH(i, count) codes[i] = (Code)cast.at(values, wide, random, i);
}

extern "C" __global__ void round_values(const void* values, int wide, int rounding, const unsigned* random,
                                        int random_bits, Out* rounded, unsigned* refused, long long count) {
  const Cast cast = {rounding, random_bits, refused};
  EACH(i, count) rounded[i] = value_of(cast.at(values, wide, random, i));
}

extern "C" __global__ void decode_values(const Code* codes, Out* values, long long count) {
  EACH(i, count) values[i] = value_of(codes[i]);
}
