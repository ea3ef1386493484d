// A device that speaks bytes, in the clock's time, and a line to it that spoils frames both ways. The other end
// is sim/line.py.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "Vmodel.h"

namespace {

constexpr uint8_t FLAG = 0x7e;  // rtl/link/frames.py

// What may happen to a frame, in the order of sim/line.py.
enum Fault {
    LOST_BYTE,
    DOUBLED_BYTE,
    SWAPPED_BYTES,
    FLIPPED_BIT,
    BURST,
    TRUNCATED,
    LOST_FRAME,
    DOUBLED_FRAME,
    DELAYED_FRAME,
    OLD_FRAME,
    NOISE,
    FAULTS
};

// One direction of the line. A frame is handed on when it is whole, which is when its fate is decided.
class Direction {
    uint64_t state;
    uint32_t rate;  // of 65536 frames
    std::vector<uint8_t> frame;
    std::vector<std::vector<uint8_t>> old;  // the last ones
    std::vector<uint8_t> delayed;
    int delay = 0;

    uint64_t random(uint64_t below) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64
        return (state >> 16) % below;
    }

    void emit(const std::vector<uint8_t>& bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

    void spoil(Fault fault) {
        const std::size_t size = frame.size(), at = random(size);
        switch (fault) {
            case LOST_BYTE: frame.erase(frame.begin() + at); break;
            case DOUBLED_BYTE: frame.insert(frame.begin() + at, frame[at]); break;
            case SWAPPED_BYTES: std::swap(frame[at], frame[(at + 1) % size]); break;
            case FLIPPED_BIT: frame[at] ^= 1 << random(8); break;
            case BURST:
                for (std::size_t i = at; i < std::min(size, at + 1 + random(16)); ++i) frame[i] = random(256);
                break;
            case TRUNCATED: frame.resize(at); break;
            case LOST_FRAME: frame.clear(); break;
            case DOUBLED_FRAME: emit(frame); break;
            case DELAYED_FRAME:
                if (!delay) delayed.swap(frame), frame.clear(), delay = 1 + random(3);
                break;
            case OLD_FRAME: emit(old[random(old.size())]); break;
            case NOISE:
                for (uint64_t i = 1 + random(40); i; --i) out.push_back(random(256));
                break;
            default: break;
        }
    }

public:
    std::deque<uint8_t> out;
    uint64_t frames = 0, spoilt[FAULTS] = {};

    Direction(uint64_t seed, uint32_t rate) : state(seed * 2 + 1), rate(rate) {}

    void push(uint8_t byte) {
        if (!rate) return out.push_back(byte);
        frame.push_back(byte);
        if (byte != FLAG || frame.size() == 1) return;
        ++frames;
        if (old.size() < 8) old.push_back(frame);
        else old[random(8)] = frame;
        if (random(65536) < rate) {
            const Fault fault = static_cast<Fault>(random(FAULTS));
            ++spoilt[fault];
            spoil(fault);
        }
        emit(frame);
        frame.clear();
        if (delay && !--delay) emit(delayed);
    }
};

struct Line {
    VerilatedContext context;
    Vmodel model{&context};
    Direction to_device{1, 0}, to_host{2, 0};
    uint64_t cycles = 0;

    // The next eval() takes in the falling edge.
    void tick() {
        model.clk = 1;
        model.eval();
        model.clk = 0;
        ++cycles;
    }
};

}  // namespace

extern "C" {

Line* line_new() { return new Line; }
void line_free(Line* line) { delete line; }

uint64_t line_cycles(const Line* line) { return line->cycles; }

// The device's reset, as by its button: what is on the line stays there.
void line_reset_device(Line* line) {
    line->model.rst = 1;
    line->model.received_valid = line->model.sent_ready = 0;
    line->model.eval();
    line->tick();
    line->model.rst = 0;
}

void line_faults(Line* line, uint64_t seed, uint32_t rate) {
    line->to_device = Direction(seed, rate);
    line->to_host = Direction(~seed, rate);
}

// Frames and faults of each kind, to the device and to the host.
void line_counts(const Line* line, uint64_t* counts) {
    for (const Direction* direction : {&line->to_device, &line->to_host}) {
        *counts++ = direction->frames;
        counts = std::copy(direction->spoilt, direction->spoilt + FAULTS, counts);
    }
}

void line_write(Line* line, const uint8_t* bytes, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) line->to_device.push(bytes[i]);
}

// Runs until a byte has come and `latency` cycles more, or for `limit` cycles, a byte each way every `pace`
// cycles; takes at most `room` bytes and tells how many.
uint64_t line_read(Line* line, uint8_t* bytes, uint64_t room, uint64_t limit, uint64_t latency, uint64_t pace) {
    Vmodel& model = line->model;
    auto &in = line->to_device.out, &out = line->to_host.out;
    for (bool come = false; limit; --limit) {
        if (!come && !out.empty()) come = true, limit = std::min(limit, latency + 1);
        const bool slot = line->cycles % pace == 0, offered = slot && !in.empty();
        model.received_valid = offered;
        model.received_payload = offered ? in.front() : 0;
        model.sent_ready = slot;
        model.eval();
        if (offered) in.pop_front();
        if (slot && model.sent_valid) line->to_host.push(model.sent_payload);
        line->tick();
    }
    const uint64_t count = std::min<uint64_t>(room, out.size());
    std::copy(out.begin(), out.begin() + count, bytes);
    out.erase(out.begin(), out.begin() + count);
    return count;
}
}
