// ChunkedFloat in the float `Real`, by the clauses that quaver/golden/kernels/vector.py proves a pair of formats needs.
// The formulas are those of quaver/golden/kernels/vector_kernel.py; there, too, is why they are right.

typedef Ieee<Real>::Bits Bits;

__device__ __forceinline__ float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float fma_rz(float a, float b, float c) { return __fmaf_rz(a, b, c); }
__device__ __forceinline__ float fma_rd(float a, float b, float c) { return __fmaf_rd(a, b, c); }
__device__ __forceinline__ float fma_ru(float a, float b, float c) { return __fmaf_ru(a, b, c); }
__device__ __forceinline__ double fma_rn(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ __forceinline__ double fma_rz(double a, double b, double c) { return __fma_rz(a, b, c); }
__device__ __forceinline__ double fma_rd(double a, double b, double c) { return __fma_rd(a, b, c); }
__device__ __forceinline__ double fma_ru(double a, double b, double c) { return __fma_ru(a, b, c); }

struct Arithmetic {
  typedef Real Value;
  typedef Real Sum;
  static constexpr Bits one = 1, sign = one << (8 * sizeof(Real) - 1), kept = ~((one << Program::dropped) - 1);
  // A float32's draws are shifted to their place when they are made; a float64's do not fit in 32 bits then.
  static constexpr int shift_made = sizeof(Real) == 4 ? Program::random_shift : 0,
                       shift_used = Program::random_shift - shift_made;

  static __device__ __forceinline__ Bits bits(Real x) { return Ieee<Real>::bits(x); }
  static __device__ __forceinline__ Real real(Bits x) { return Ieee<Real>::value(x); }
  static __device__ __forceinline__ Real magnitude(Real x) { return real(bits(x) & ~sign); }
  static __device__ __forceinline__ Real signed_as(Real x, Real magnitude) {
    return real((bits(x) & sign) | bits(magnitude));
  }

  static __device__ __forceinline__ Value decode_a(unsigned code) { return decode<Operand, Real>(code); }
  static __device__ __forceinline__ Value decode_b(unsigned code) { return decode<Operand, Real>(code); }
  static __device__ __forceinline__ unsigned encode(Sum total, unsigned) { return encode_float<Accumulator>(total); }

  static __device__ __forceinline__ Real nearest(Real total) {
    const Real scale = (Real)(one << Program::dropped);
    if (!Program::subnormal) return fma_rn(total, scale, fma_rn(total, -scale, total));
    const Real least = Program::tiny() * scale * (Real)1.5;
    Real shift = magnitude(total * scale);
    shift = signed_as(total, shift > least ? shift : least);
    return (total - shift) + shift;
  }

  static __device__ __forceinline__ Real cut(Real total, Bits random) { return real((bits(total) + random) & kept); }

  // round(c + a · b)
  template <bool CHECKED> static __device__ __forceinline__ Real rounded_sum(Real a, Real b, Real c, unsigned draw) {
    Real total, result;
    if (Program::drawn || Program::ties_away) {
      Bits random = Program::drawn ? (Bits)draw << shift_used : one << (Program::dropped - 1);
      total = fma_rz(a, b, c);
      result = cut(total, random);
      if (Program::subnormal && magnitude(total) < Program::tiny())
        result = signed_as(total, cut(fma_rz((Real)1, magnitude(total), Program::tiny()), random) - Program::tiny());
      if (Program::gap && magnitude(result) <= Program::tiny()) result = signed_as(total, (Real)0);
    } else {
      if (Program::corrected) {  // to odd
        Real down = fma_rd(a, b, c), up = fma_ru(a, b, c);
        total = (bits(down) & 1) ? down : up;
      } else
        total = fma_rn(a, b, c);
      result = Program::dropped ? nearest(total) : total;
    }
    if (CHECKED) {
      // A NaN may be all ones here, so that adding to its bits wraps round: ask the sum, not the result.
      const bool nan = total != total;
      const Real beyond = signed_as(total, Program::beyond());
      result = nan | !(magnitude(result) <= Program::largest()) ? nan ? total : beyond : result;
    }
    return result;
  }

  template <bool CHECKED> static __device__ __forceinline__ Sum add_product(Sum sum, Value a, Value b, unsigned draw) {
    return rounded_sum<CHECKED>(a, b, sum, draw);
  }
  template <bool CHECKED> static __device__ __forceinline__ Sum fold(Sum total, Sum partial, unsigned draw) {
    return rounded_sum<CHECKED>((Real)1, partial, total, draw);
  }
  // Whether no sum overflows: the largest product is within what the launcher found for K and chunk.
  static __device__ __forceinline__ bool fits(unsigned a, unsigned b, double limit) {
    return a <= Operand::max_code && b <= Operand::max_code &&
           decode<Operand, double>(a) * decode<Operand, double>(b) <= limit;
  }
};
