// Every pair: a compiled two-operand unit, and an adder held to the definition in 128-bit integers.
//
// The model's ports are a, b, random and result (module `pair`, see exhaustive.py). The definition knows nothing of
// aligners, guard bits or normalisers: a number is an integer times a power of two, the sum of two is another one,
// and rounding drops bits. tests/test_exhaustive.py holds it to quaver.golden.exact in turn.

#include <bit>
#include <cstdint>

#include "Vmodel.h"

namespace {

using Wide = unsigned __int128;

struct Format {
    int32_t exponent_bits, mantissa_bits, bias, max_code, infinity_code, nan_code, saturate;  // infinity_code −1: none

    int sign_code() const { return 1 << (exponent_bits + mantissa_bits); }
    int quantum() const { return 1 - bias - mantissa_bits; }
};

enum Kind { FINITE, INFINITE, NOT_A_NUMBER };

struct Number {  // FINITE: ±magnitude · 2**power
    Kind kind;
    bool negative;
    Wide magnitude;
    int power;
};

struct Addition {
    Format a, b, sum;
    int32_t stochastic, random_bits;
};

Number decode(const Format& format, uint32_t code) {
    const uint32_t magnitude = code & (format.sign_code() - 1);
    const bool negative = code != magnitude;
    if (magnitude == uint32_t(format.infinity_code)) return {INFINITE, negative, 0, 0};
    if (magnitude > uint32_t(format.max_code)) return {NOT_A_NUMBER, false, 0, 0};
    const uint32_t exponent = magnitude >> format.mantissa_bits;
    if (exponent == 0) return {FINITE, negative, magnitude, format.quantum()};
    const uint32_t mantissa = magnitude - (exponent << format.mantissa_bits);
    return {FINITE, negative, mantissa | 1u << format.mantissa_bits, format.quantum() + int(exponent) - 1};
}

Number add(const Number& x, const Number& y) {
    if (x.kind == NOT_A_NUMBER || y.kind == NOT_A_NUMBER) return {NOT_A_NUMBER, false, 0, 0};
    if (x.kind == INFINITE && y.kind == INFINITE && x.negative != y.negative) return {NOT_A_NUMBER, false, 0, 0};
    if (x.kind == INFINITE) return x;
    if (y.kind == INFINITE) return y;
    const int power = x.power < y.power ? x.power : y.power;
    const Wide of_x = x.magnitude << (x.power - power), of_y = y.magnitude << (y.power - power);
    if (x.negative == y.negative) return {FINITE, x.negative, of_x + of_y, power};
    if (of_x == of_y) return {FINITE, false, 0, power};
    return of_x > of_y ? Number{FINITE, x.negative, of_x - of_y, power} : Number{FINITE, y.negative, of_y - of_x, power};
}

int bit_length(Wide x) {
    const uint64_t high = uint64_t(x >> 64);
    return high ? 64 + std::bit_width(high) : std::bit_width(uint64_t(x));
}

uint32_t encode(const Addition& addition, const Number& x, uint32_t random) {
    const Format& format = addition.sum;
    const uint32_t sign = x.negative ? format.sign_code() : 0;
    const uint32_t infinity = format.infinity_code < 0 ? uint32_t(format.nan_code) : sign | format.infinity_code;
    const uint32_t overflow = format.saturate ? sign | format.max_code : infinity;
    if (x.kind == NOT_A_NUMBER) return format.nan_code;
    if (x.kind == INFINITE) return overflow;
    int power = x.power + bit_length(x.magnitude) - (format.mantissa_bits + 1);  // of the last kept bit
    if (power < format.quantum()) power = format.quantum();
    const int dropped = power - x.power;
    Wide kept;
    if (dropped <= 0) {
        kept = x.magnitude << -dropped;
    } else if (addition.stochastic) {
        kept = ((x.magnitude << addition.random_bits >> dropped) + random) >> addition.random_bits;
    } else {
        kept = x.magnitude >> dropped;
        const Wide rest = x.magnitude - (kept << dropped), half = Wide(1) << (dropped - 1);
        if (rest > half || (rest == half && (kept & 1))) kept += 1;
    }
    if (kept == 0) return sign;
    const int64_t code = (int64_t(power - format.quantum()) << format.mantissa_bits) + int64_t(kept);
    return code > format.max_code ? overflow : sign | uint32_t(code);
}

uint32_t define(const Addition& addition, uint32_t a, uint32_t b, uint32_t random) {
    return encode(addition, add(decode(addition.a, a), decode(addition.b, b)), random);
}

}  // namespace

extern "C" {

Vmodel* model_new() { return new Vmodel(new VerilatedContext); }

void model_delete(Vmodel* model) {
    VerilatedContext* context = model->contextp();
    delete model;
    delete context;
}

// What the model says of each pair.
void evaluate(Vmodel* model, int64_t count, const uint32_t* a, const uint32_t* b, const uint32_t* random,
              uint32_t* results) {
    for (int64_t i = 0; i < count; ++i) {
        model->a = a[i];
        model->b = b[i];
        model->random = random[i];
        model->eval();
        results[i] = model->result;
    }
}

// What the definition says of each pair.
void definition(const Addition* addition, int64_t count, const uint32_t* a, const uint32_t* b, const uint32_t* random,
                uint32_t* sums) {
    for (int64_t i = 0; i < count; ++i) sums[i] = define(*addition, a[i], b[i], random[i]);
}

// Of `count` pairs the index of the first on which the two differ; `count` if none does.
int64_t compare(Vmodel* model, const Addition* addition, int64_t count, const uint32_t* a, const uint32_t* b,
                const uint32_t* random) {
    for (int64_t i = 0; i < count; ++i) {
        model->a = a[i];
        model->b = b[i];
        model->random = random[i];
        model->eval();
        if (model->result != define(*addition, a[i], b[i], random[i])) return i;
    }
    return count;
}
}
