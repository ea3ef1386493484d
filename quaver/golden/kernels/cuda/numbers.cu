// Floats of any format: codes to values, and numbers to codes with the rounding of quaver/golden/rounding.py.
//
// A format F is a struct of constants (source.py writes it): width, mantissa_bits, precision, quantum (exponent of
// the smallest step), min_exponent, max_code, sign, infinity (code that infinity has, 0 where it has none), beyond
// (code that overflow becomes), nan, missing (codes that DLFloat lacks where others have subnormals), ties_away.

typedef unsigned long long Word;

enum Rounding { NEAREST, TOWARD_ZERO, STOCHASTIC };

template <class T> struct Ieee;
template <> struct Ieee<float> {
  typedef unsigned Bits;
  static constexpr int mantissa_bits = 23, bias = 127;
  static __device__ Bits bits(float x) { return __float_as_uint(x); }
  static __device__ float value(Bits x) { return __uint_as_float(x); }
};
template <> struct Ieee<double> {
  typedef Word Bits;
  static constexpr int mantissa_bits = 52, bias = 1023;
  static __device__ Bits bits(double x) { return (Word)__double_as_longlong(x); }
  static __device__ double value(Bits x) { return __longlong_as_double((long long)x); }
};

// significand · 2**exponent; special (∞ or NaN, else a zero) beside it carries the sign, as in kernels/scalar.py.
struct Number {
  bool negative;
  Word significand;
  int exponent;
  bool infinite, nan;
};

template <class F> __device__ __forceinline__ Number number_of(unsigned code) {
  unsigned magnitude = code & (F::sign - 1), gradual = magnitude ? magnitude + F::missing : 0;
  unsigned field = gradual >> F::mantissa_bits, steps = field ? field - 1 : 0;
  bool finite = magnitude <= F::max_code, infinite = F::infinity && magnitude == F::infinity;
  return {(code & F::sign) != 0, gradual - (steps << F::mantissa_bits), (int)steps + F::quantum, infinite,
          !finite && !infinite};
}

template <class T> __device__ __forceinline__ Number number_of_float(T x) {
  typedef Ieee<T> I;
  typename I::Bits bits = I::bits(x), one = 1, mantissa = bits & ((one << I::mantissa_bits) - 1);
  int field = (int)(bits >> I::mantissa_bits) & (2 * I::bias + 1);
  bool special = field == 2 * I::bias + 1, hidden = field > 0;
  return {(bits >> (8 * sizeof(T) - 1)) != 0, (Word)mantissa | (Word)hidden << I::mantissa_bits,
          field + !hidden - I::bias - I::mantissa_bits, special && mantissa == 0, special && mantissa != 0};
}

// The value of a code in a T that has room for it.
template <class F, class T> __device__ __forceinline__ T decode(unsigned code) {
  typedef Ieee<T> I;
  Number x = number_of<F>(code);
  T power = I::value((typename I::Bits)(x.exponent + I::bias) << I::mantissa_bits);
  T value = (T)(int)x.significand * power;
  if (x.infinite || x.nan)
    value = I::value(((typename I::Bits)(4 * I::bias + 2 + x.nan) << (I::mantissa_bits - 1)));
  return x.negative ? -value : value;
}

// The code of a number of at most 62 bits, rounded once; what lies below it may stick in its last bit.
template <class F> __device__ __forceinline__
unsigned encode(Number x, Rounding rounding, Word random, int random_bits) {
  unsigned sign = x.negative ? F::sign : 0;
  if (x.nan) return F::nan;
  if (x.infinite) return F::beyond == F::nan ? F::nan : sign | F::beyond;
  if (!x.significand) return sign;
  int unit = 64 - __clzll((long long)x.significand) + x.exponent - F::precision;
  unit = unit > F::quantum ? unit : F::quantum;
  int dropped = unit - x.exponent;
  Word kept;
  if (dropped <= 0)
    kept = x.significand << -dropped;
  else if (rounding == STOCHASTIC) {
    int below = dropped - random_bits;
    Word cut = below < 0 ? x.significand << -below : below < 64 ? x.significand >> below : 0;
    kept = (cut + random) >> random_bits;
  } else if (dropped > 63)
    kept = 0;
  else {
    kept = x.significand >> dropped;
    Word rest = x.significand & (((Word)1 << dropped) - 1), half = (Word)1 << (dropped - 1);
    kept += rounding == NEAREST && (rest > half || (rest == half && (F::ties_away || (kept & 1))));
  }
  Word code = ((Word)(unit - F::quantum) << F::mantissa_bits) + kept;
  code = code > F::missing ? code - F::missing : 0;
  if (code > F::max_code)
    return rounding == TOWARD_ZERO ? sign | F::max_code : F::beyond == F::nan ? F::nan : sign | F::beyond;
  return sign | (unsigned)code;
}

template <class F, class T> __device__ __forceinline__
unsigned encode_float(T x, Rounding rounding = NEAREST, Word random = 0, int random_bits = 0) {
  return encode<F>(number_of_float(x), rounding, random, random_bits);
}
