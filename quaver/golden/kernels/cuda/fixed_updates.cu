__device__ __forceinline__ long long signed_of(unsigned code, int width) {
  return (int)(code << (32 - width)) >> (32 - width);
}

// A line's exact sum without its low bits, rounded, saturating in a format of `width` bits.
__device__ __forceinline__ long long line(long long sum, int dropped, int width, unsigned random) {
  const int shift = dropped - Program::random_bits;
  if (dropped) {
    if (Program::rounding == NEAREST)
      sum += (1LL << (dropped - 1)) - 1 + ((sum >> dropped) & 1);
    else if (Program::rounding == TOWARD_ZERO)
      sum += sum < 0 ? (1LL << dropped) - 1 : 0;
    else
      sum += shift >= 0 ? (long long)random << shift : (long long)(random >> -shift);
  }
  sum >>= dropped;
  const long long most = (1LL << (width - 1)) - 1;
  return sum > most ? most : sum < -most - 1 ? -most - 1 : sum;
}

extern "C" __global__ void fixed_sgd(const unsigned* matrices, const unsigned* seeds, long long decay,
                                     long long momentum, long long rate, const CodeW* weights, const CodeV* momenta,
                                     const CodeG* gradients, CodeW* new_weights, CodeV* new_momenta,
                                     long long count) {
  for_each(matrices, seeds, count, [&](long long i, const Draws& draws) {
    const long long w = signed_of(weights[i], Program::width_w), v = signed_of(momenta[i], Program::width_v),
                    g = signed_of(gradients[i], Program::width_g);
    const long long sum = ((decay * w) << Program::shift_w) + ((momentum * v) << Program::shift_v) +
                          ((rate * g) << Program::shift_g);
    const long long new_v = line(sum, Program::first_dropped, Program::width_v, draws.of(0));
    const long long less = (w << Program::weight_shift) - (new_v << Program::update_shift);
    const long long new_w = line(less, Program::second_dropped, Program::width_w, draws.of(1));
    new_momenta[i] = (CodeV)(new_v & ((1LL << Program::width_v) - 1));
    new_weights[i] = (CodeW)(new_w & ((1LL << Program::width_w) - 1));
  });
}
