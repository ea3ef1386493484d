// The elements of an array, beside the model of what is around them: one module, all clocked together.
//
// Verilator's code for the element computes one of them. Here the class of its signals is compiled with every
// signal a row of COUNT values, and its functions get, for element i, a pointer that lies i values further on,
// so that they find element i's value wherever they look for a signal's. The loop over the elements then reads
// and writes neighbouring values, and the compiler gives it vector instructions.
//
// An element's outputs must be registers: nothing passes through it between two edges of the clock.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "Vmodel___024root.h"
#include "element_sizes.h"  // COUNT; LANE, an integer type that holds any signal's value

// N makes every signal a type of its own: of two different classes, ?: chooses the values, not the signals.
template <class T, int N>
struct Signal {
    LANE lanes[COUNT];
    operator T() const { return static_cast<T>(lanes[0]); }
    T operator=(T value) { return lanes[0] = value, value; }
};
#define NARROW Signal<uint32_t, __COUNTER__>
#define WIDE Signal<uint64_t, __COUNTER__>
#define CData NARROW
#define SData NARROW
#define IData NARROW
#define QData WIDE
#undef VL_IN8
#undef VL_IN16
#undef VL_IN
#undef VL_IN64
#undef VL_OUT8
#undef VL_OUT16
#undef VL_OUT
#undef VL_OUT64
#define VL_IN8(name, msb, lsb) NARROW name
#define VL_IN16(name, msb, lsb) NARROW name
#define VL_IN(name, msb, lsb) NARROW name
#define VL_IN64(name, msb, lsb) WIDE name
#define VL_OUT8(name, msb, lsb) NARROW name
#define VL_OUT16(name, msb, lsb) NARROW name
#define VL_OUT(name, msb, lsb) NARROW name
#define VL_OUT64(name, msb, lsb) WIDE name
#include "Velement___024root.h"
#undef CData
#undef SData
#undef IData
#undef QData

// Local variables of one width: a vector need not be packed and unpacked.
#define CData IData
#define SData IData
namespace {
#include "element_functions.h"
}
#undef CData
#undef SData

class Elements {
    using Element = Velement___024root;
    alignas(Element) std::byte memory[sizeof(Element)];

    Element* at(std::size_t i) { return reinterpret_cast<Element*>(memory + i * sizeof(LANE)); }

public:
    Elements() {
        std::memset(memory, 0, sizeof(memory));
        for (std::size_t i = 0; i < COUNT; ++i) {
            Velement___024root___eval_static(at(i));
            Velement___024root___eval_initial(at(i));
            Velement___024root___eval_stl(at(i));
        }
    }

    void reset(bool value) {
        for (std::size_t i = 0; i < COUNT; ++i) at(i)->rst = value;
    }

    // The inputs from the model around.
    void sample(const Vmodel___024root& model) {
#include "element_inputs.h"
    }

    // A rising edge of the clock.
    __attribute__((flatten, noinline)) void clock() {
#pragma omp simd
        for (std::size_t i = 0; i < COUNT; ++i) {
            Velement___024root___eval_ico(at(i));
            Velement___024root___eval_nba(at(i));
        }
    }

    // The outputs to the model around.
    void drive(Vmodel___024root& model) {
#include "element_outputs.h"
    }
};
