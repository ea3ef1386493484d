// FixedPoint: exact sums in 64 bits, each rounded once on its way out.

struct Arithmetic {
  typedef int Value;
  typedef long long Sum;
  static constexpr int shift_made = 0;

  static __device__ __forceinline__ Value signed_of(unsigned code, int width) {
    return (int)(code << (32 - width)) >> (32 - width);
  }
  static __device__ __forceinline__ Value decode_a(unsigned code) { return signed_of(code, Program::width_a); }
  static __device__ __forceinline__ Value decode_b(unsigned code) { return signed_of(code, Program::width_b); }

  template <bool CHECKED> static __device__ __forceinline__ Sum add_product(Sum sum, Value a, Value b, unsigned) {
    return sum + (long long)a * b;
  }
  template <bool CHECKED> static __device__ __forceinline__ Sum fold(Sum total, Sum partial, unsigned) {
    return total + partial;
  }
  static __device__ __forceinline__ bool fits(unsigned, unsigned, double) { return true; }

  static __device__ __forceinline__ unsigned encode(Sum total, unsigned draw) {
    const int dropped = Program::dropped, shift = dropped - Program::random_bits;
    if (dropped && Program::result_drawn)
      total += shift >= 0 ? (long long)draw << (shift > 0 ? shift : 0) : (long long)(draw >> (shift < 0 ? -shift : 0));
    else if (dropped)
      total += ((1LL << (dropped ? dropped - 1 : 0)) - 1) + ((total >> dropped) & 1);
    total >>= dropped;
    const long long most = (1LL << (Program::result_width - 1)) - 1;
    total = total > most ? most : total < -most - 1 ? -most - 1 : total;
    return (unsigned)total & (unsigned)((1ULL << Program::result_width) - 1);
  }
};
