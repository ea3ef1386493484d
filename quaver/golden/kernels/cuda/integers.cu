// ChunkedFloat on integers, an output a thread: right for every pair of formats, where vector.py has no proof that a
// float is wide enough. After quaver/golden/kernels/scalar.py.

__device__ __forceinline__ Number product_of(const Number& a, const Number& b) {
  Number c = {a.negative != b.negative, a.significand * b.significand, a.exponent + b.exponent, false, a.nan || b.nan};
  if (!c.nan && (a.infinite || b.infinite)) {
    c.nan = (!a.infinite && !a.significand) || (!b.infinite && !b.significand);  // ∞ · 0
    c.infinite = !c.nan;
  }
  return c;
}

// The code of the sum of two numbers, rounded once.
__device__ __forceinline__ unsigned sum_of(Number x, Number y, unsigned random) {
  const Rounding rounding = Program::drawn ? STOCHASTIC : NEAREST;
  if (x.nan || y.nan || (x.infinite && y.infinite && x.negative != y.negative)) return Accumulator::nan;
  // Not encode's infinity: an accumulator that saturates keeps it a number, and so does an operand's in it.
  if (x.infinite || y.infinite) {
    x.negative = x.infinite ? x.negative : y.negative;
    x.infinite = true;
    return encode<Accumulator>(x, rounding, 0, Program::random_bits);
  }
  if (!x.significand && !y.significand) return x.negative && y.negative ? Accumulator::sign : 0;
  int top = 64 - __clzll((long long)x.significand) + x.exponent;
  int other_top = 64 - __clzll((long long)y.significand) + y.exponent;
  if (!x.significand || (y.significand && other_top > top)) {
    Number larger = y;
    y = x;
    x = larger;
    top = other_top;
  }
  // The larger one's highest bit goes to bit 60. What the smaller one loses below bit 0 sticks in bit 0.
  const int unit = top - 61;
  Word total = x.significand << (x.exponent - unit), other = 0;
  if (y.significand) {
    const int shift = y.exponent - unit;
    if (shift >= 0)
      other = y.significand << shift;
    else if (shift > -62)
      other = (y.significand >> -shift) | ((y.significand & (((Word)1 << -shift) - 1)) != 0);
    else
      other = 1;
  }
  Number sum = {x.negative, x.negative == y.negative ? total + other : total - other, unit, false, false};
  if (x.negative != y.negative && other > total) sum.negative = y.negative, sum.significand = other - total;
  if (!sum.significand) return 0;
  return encode<Accumulator>(sum, rounding, random, Program::random_bits);
}

extern "C" __global__ void gemm_integers(const CodeA* a, const CodeB* b, const unsigned* rows_states,
                                         const unsigned* columns_states, const unsigned* diagonals_states, CodeC* c,
                                         int M, int N, int width_a, int width_b, int depth, int chunk, int padded_chunk,
                                         int K) {
  const size_t output = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (output >= (size_t)M * N) return;
  const int product = blockIdx.y, m = output / N, n = output % N;
  unsigned row = 0, column = 0, diagonal = 0, total = 0;
  if (Program::drawn) {
    row = rows_states[(size_t)product * width_a + m];
    column = columns_states[(size_t)product * width_b + n];
    diagonal = diagonals_states[(size_t)product * (3 * width_a + width_b) + 3 * m + n];
  }
  auto draw = [&] {
    if (!Program::drawn) return 0u;
    unsigned bits = (row ^ column ^ diagonal) & (unsigned)((1ULL << Program::random_bits) - 1);
    row ^= stepped<RowSource>(row, RowSource::leap);
    column ^= stepped<ColumnSource>(column, ColumnSource::leap);
    diagonal ^= stepped<DiagonalSource>(diagonal, DiagonalSource::leap);
    return bits;
  };
  for (int start = 0, at = 0; start < K; start += chunk, at += padded_chunk) {
    unsigned partial = 0;
    for (int k = 0; k < chunk && start + k < K; k++) {
      const size_t line = (size_t)product * depth + at + k;
      const Number left = number_of<Operand>(a[line * width_a + m]), right = number_of<Operand>(b[line * width_b + n]);
      partial = sum_of(number_of<Accumulator>(partial), product_of(left, right), draw());
    }
    total = sum_of(number_of<Accumulator>(total), number_of<Accumulator>(partial), draw());
  }
  c[(size_t)product * M * N + output] = (CodeC)total;
}
