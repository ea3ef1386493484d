// What Verilator's FST writer asks of the library LZ4, for systems that have no header of it: its block format,
// compressed greedily.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

static inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

static inline int LZ4_compress_default(const char* source, char* destination, int size, int) {
    constexpr int SHORTEST = 4;  // match
    constexpr int TAIL = 12;     // within so many bytes of the end no match begins; the last five are literals
    const auto* in = reinterpret_cast<const uint8_t*>(source);
    auto* out = reinterpret_cast<uint8_t*>(destination);
    std::vector<int> seen(1 << 14, -1);  // hash of four bytes → where they were last
    const auto extend = [&out](int length) {
        for (; length >= 255; length -= 255) *out++ = 255;
        *out++ = static_cast<uint8_t>(length);
    };
    const auto literals = [&](int start, int end, int token) {
        const int length = end - start;
        *out++ = static_cast<uint8_t>((length < 15 ? length : 15) << 4 | token);
        if (length >= 15) extend(length - 15);
        std::memcpy(out, in + start, length);
        out += length;
    };
    int start = 0;
    for (int i = 0; i + TAIL < size;) {
        uint32_t word;
        std::memcpy(&word, in + i, sizeof word);
        int& last = seen[word * 2654435761u >> 18];
        const int candidate = last;
        last = i;
        if (candidate < 0 || i - candidate > 65535 || std::memcmp(in + candidate, in + i, SHORTEST)) {
            ++i;
            continue;
        }
        int length = SHORTEST;
        while (i + length < size - 5 && in[candidate + length] == in[i + length]) ++length;
        const int more = length - SHORTEST;
        literals(start, i, more < 15 ? more : 15);
        *out++ = static_cast<uint8_t>(i - candidate);
        *out++ = static_cast<uint8_t>((i - candidate) >> 8);
        if (more >= 15) extend(more - 15);
        start = i += length;
    }
    literals(start, size, 0);
    return static_cast<int>(reinterpret_cast<char*>(out) - destination);
}
