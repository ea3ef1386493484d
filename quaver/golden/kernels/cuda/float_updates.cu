// The code of y + alpha · x: the exact sum to odd in float64, which no rounding of Format can tell from it.
__device__ __forceinline__ double axpy_to_odd(double alpha, double x, double y) {
  const double down = __fma_rd(alpha, x, y), up = __fma_ru(alpha, x, y);
  return __double_as_longlong(down) & 1 ? down : up;
}

__device__ __forceinline__ unsigned axpy(double alpha, double x, double y, unsigned random) {
  return encode_float<Format>(axpy_to_odd(alpha, x, y), (Rounding)Program::rounding, random, Program::random_bits);
}

__device__ __forceinline__ double value(unsigned code) { return decode<Format, double>(code); }

__device__ __forceinline__ double nearest(double x) { return value(encode_float<Format>(x)); }

extern "C" __global__ void float_sgd(const unsigned* matrices, const unsigned* seeds, double decay, double momentum,
                                     double rate, const Code* weights, const Code* momenta, const Code* gradients,
                                     Code* new_weights, Code* new_momenta, long long count) {
  for_each(matrices, seeds, count, [&](long long i, const Draws& draws) {
    const double w = value(weights[i]);
    const double g = value(axpy(decay, w, value(gradients[i]), draws.of(0)));
    const unsigned v = axpy(momentum, value(momenta[i]), g, draws.of(1));
    new_momenta[i] = (Code)v;
    new_weights[i] = (Code)axpy(-rate, value(v), w, draws.of(2));
  });
}

// momenta and new_momenta hold m, then v.
extern "C" __global__ void adam(const unsigned* matrices, const unsigned* seeds, double decay, double momentum,
                                double second, double epsilon, double rate, const Code* weights, const Code* momenta,
                                const Code* gradients, Code* new_weights, Code* new_momenta, long long count) {
  for_each(matrices, seeds, count, [&](long long i, const Draws& draws) {
    const double w = value(weights[i]), m = value(momenta[i]), v = value(momenta[count + i]);
    const double g = value(axpy(decay, w, value(gradients[i]), draws.of(0)));
    const unsigned new_m = axpy(momentum, nearest(axpy_to_odd(-1.0, m, g)), m, draws.of(1));
    const unsigned new_v = axpy(second, nearest(axpy_to_odd(-1.0, v, nearest(__dmul_rn(g, g)))), v, draws.of(2));
    const double root = nearest(__dsqrt_rn(value(new_v)));
    const double below = nearest(axpy_to_odd(1.0, root, epsilon));
    new_momenta[i] = (Code)new_m;
    new_momenta[count + i] = (Code)new_v;
    new_weights[i] = (Code)axpy(-rate, nearest(__ddiv_rn(value(new_m), below)), w, draws.of(3));
  });
}
