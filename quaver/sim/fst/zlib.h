// What Verilator's FST writer asks of zlib, for systems that have no header of it: data stored, not compressed,
// which is larger, so that the writer takes the data as they are. Only times and first values are meant; the
// changes of signals go through LZ4.
#pragma once

#include <cstdint>

using uLong = unsigned long;
using uLongf = unsigned long;
using Bytef = unsigned char;

constexpr int Z_OK = 0;

static inline uLong compressBound(uLong size) { return size + size / 65535 * 5 + 16; }

static inline int compress2(Bytef* destination, uLongf* destination_size, const Bytef* source, uLong size, int) {
    Bytef* out = destination;
    *out++ = 0x78;
    *out++ = 0x01;
    uint32_t low = 1, high = 0;  // Adler-32
    uLong done = 0;
    do {
        const uLong block = size - done < 65535 ? size - done : 65535;
        *out++ = done + block == size;  // the last block
        *out++ = static_cast<Bytef>(block);
        *out++ = static_cast<Bytef>(block >> 8);
        *out++ = static_cast<Bytef>(~block);
        *out++ = static_cast<Bytef>(~block >> 8);
        for (const uLong end = done + block; done < end; ++done) {
            *out++ = source[done];
            low = (low + source[done]) % 65521;
            high = (high + low) % 65521;
        }
    } while (done < size);
    for (const uint32_t part : {high, low}) {
        *out++ = static_cast<Bytef>(part >> 8);
        *out++ = static_cast<Bytef>(part);
    }
    *destination_size = static_cast<uLongf>(out - destination);
    return Z_OK;
}
