// Casts: floats to codes of `Format` by `Program::rounding`, with a draw for each where it takes one, and back.

__device__ __forceinline__ unsigned fixed_code(double steps) {
  const double most = (double)((1 << (Program::width - 1)) - 1);
  steps = steps > most ? most : steps < -most - 1 ? -most - 1 : steps;
  return (unsigned)(int)steps & (unsigned)((1ULL << Program::width) - 1);
}

template <class T> __device__ __forceinline__ unsigned cast(T value, unsigned random, unsigned* refused) {
  const Rounding rounding = (Rounding)Program::rounding;
  if (!Program::fixed) return encode_float<Format>(value, rounding, random, Program::random_bits);
  // What lies beyond the ends saturates, however it is rounded; for NaN there is no code.
  const double end = Program::end(), x = value;
  if (x != x) *refused = 1;
  double steps = (x > end ? end : x < -end ? -end : x) * Program::per_step();
  if (rounding == NEAREST)
    steps = rint(steps);
  else if (rounding == TOWARD_ZERO)
    steps = trunc(steps);
  else {
    const long long fine = (long long)floor(steps * (double)(1ULL << Program::random_bits));
    steps = (double)((fine + (long long)random) >> Program::random_bits);
  }
  return fixed_code(steps);
}

__device__ __forceinline__ Out value_of(unsigned code) {
  if (Program::fixed)
    return (Out)((double)((int)(code << (32 - Program::width)) >> (32 - Program::width)) / Program::per_step());
  return (Out)decode<Format, Wide>(code);
}

#define EACH(i, count) \
  for (Word i = (Word)blockIdx.x * 256 + threadIdx.x; i < count; i += (Word)gridDim.x * 256)

extern "C" __global__ void encode_values(const In* values, const unsigned* random, Code* codes, unsigned* refused,
                                  long long count) {
  EACH(i, count) codes[i] = (Code)cast(values[i], random ? random[i] : 0, refused);
}

extern "C" __global__ void decode_values(const Code* codes, Out* values, long long count) {
  EACH(i, count) values[i] = value_of(codes[i]);
}

extern "C" __global__ void round_values(const In* values, const unsigned* random, Out* rounded, unsigned* refused,
                                        long long count) {
  EACH(i, count) rounded[i] = value_of(cast(values[i], random ? random[i] : 0, refused));
}
