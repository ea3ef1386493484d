// CUDA C++ for g++: what the kernels of quaver/golden/kernels/cuda use of it. A block's threads are fibres that one
// thread runs in turn, from barrier to barrier: forwards or, to find what hangs on that, backwards.
#include <cfenv>
#include <cmath>
#include <cstring>
#include <ucontext.h>
#include <utility>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__
#define __restrict__
struct dim { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static dim threadIdx, blockIdx, gridDim;
uint4 memory[228 * 64];  // the largest GPU's shared memory
static ucontext_t scheduler, fibres[256];
static char stacks[256 * 65536];
static void (*body)(void* kernel, void** arguments);
static void *body_kernel, **body_arguments;
inline void __syncthreads() { swapcontext(&fibres[threadIdx.x], &scheduler); }
static bool live[256];
static void fibre() {
  body(body_kernel, body_arguments);
  live[threadIdx.x] = false;
}
template <class T> T canonical(T x) {  // CUDA's NaN is all ones, and adding to its bits wraps round
  if (x == x) return x;
  if constexpr (sizeof(T) == 4) { unsigned u = 0x7fffffff; memcpy(&x, &u, 4); }
  return x;
}
template <class T> T by_mode(int mode, T a, T b, T c) {
  fesetround(mode);
  volatile T x = a, y = b, z = c, r = std::fma((T)x, (T)y, (T)z);
  fesetround(FE_TONEAREST);
  return canonical((T)r);
}
inline double directed(int mode, double a, double b, double c) { return by_mode(mode, a, b, c); }
// Of float32 by way of float64, in a tenth of the time: the sum there and what it lost say whether to step.
inline float directed(int mode, float a, float b, float c) {
  double product = (double)a * b, sum = product + c, other = sum - product;
  double lost = (product - (sum - other)) + (c - other);
  float near = (float)sum;
  if (!std::isnormal(near)) return by_mode(mode, a, b, c);
  double rest = sum - near != 0 ? sum - near : lost;
  bool up = mode == FE_UPWARD || (mode == FE_TOWARDZERO && near < 0);
  return (up ? rest <= 0 : rest >= 0) ? near : std::nextafter(near, up ? INFINITY : -INFINITY);
}
inline float __fmaf_rn(float a, float b, float c) { return canonical(std::fma(a, b, c)); }
inline float __fmaf_rz(float a, float b, float c) { return directed(FE_TOWARDZERO, a, b, c); }
inline float __fmaf_rd(float a, float b, float c) { return directed(FE_DOWNWARD, a, b, c); }
inline float __fmaf_ru(float a, float b, float c) { return directed(FE_UPWARD, a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __fma_rz(double a, double b, double c) { return directed(FE_TOWARDZERO, a, b, c); }
inline double __fma_rd(double a, double b, double c) { return directed(FE_DOWNWARD, a, b, c); }
inline double __fma_ru(double a, double b, double c) { return directed(FE_UPWARD, a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
template <class To, class From> To as_bits(From from) { To to; memcpy(&to, &from, sizeof to); return to; }
inline unsigned __float_as_uint(float x) { return as_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return as_bits<float>(x); }
inline long long __double_as_longlong(double x) { return as_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return as_bits<double>(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
template <class T> T __ldg(const T* p) { return *p; }
inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned atomicMax(unsigned* p, unsigned x) { unsigned old = *p; if (x > old) *p = x; return old; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline unsigned atomicOr(unsigned* p, unsigned x) { unsigned old = *p; *p |= x; return old; }
inline unsigned atomicXor(unsigned* p, unsigned x) { unsigned old = *p; *p ^= x; return old; }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long x) { auto old = *p; *p += x; return old; }
inline unsigned long long atomicMin(unsigned long long* p, unsigned long long x) { auto old = *p; if (x < old) *p = x; return old; }
using std::floor; using std::rint; using std::trunc;

template <class... A, size_t... I> void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A> void launch(void (*kernel)(A...), const unsigned* grid, int barriers, int backwards, void** arguments) {
  gridDim = {grid[0], grid[1], grid[2]};
  body_kernel = (void*)kernel, body_arguments = arguments;
  body = [](void* k, void** a) { call((void (*)(A...))k, a, std::index_sequence_for<A...>()); };
  for (unsigned z = 0; z < grid[2]; z++) for (unsigned y = 0; y < grid[1]; y++) for (unsigned x = 0; x < grid[0]; x++) {
    blockIdx = {x, y, z};
    if (!barriers) {
      for (unsigned i = 0; i < 256; i++) threadIdx = {i, 0, 0}, fibre();
      continue;
    }
    memset(memory, 0xa5, sizeof memory);  // not zeros: shared memory begins with whatever was there
    for (int i = 0; i < 256; i++) {
      getcontext(&fibres[i]);
      fibres[i].uc_stack = {&stacks[65536 * i], 0, 65536};
      fibres[i].uc_link = &scheduler;
      makecontext(&fibres[i], fibre, 0);
    }
    memset(live, 1, sizeof live);
    for (unsigned left = 256; left;)
      for (unsigned i = 0; i < 256; i++) {
        threadIdx = {backwards ? 255 - i : i, 0, 0};
        if (!live[threadIdx.x]) continue;
        swapcontext(&scheduler, &fibres[threadIdx.x]);
        left -= !live[threadIdx.x];
      }
  }
}
