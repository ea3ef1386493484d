// Runs the accelerator in blocks of cycles between two word streams. The other end is sim/device.py.
#include <cstdint>

#include "Vmodel.h"
#include "elements.h"

namespace {

// Decides, a cycle at a time, whether a stream pauses: `rate` in 65536 cycles, from a seed.
class Stalls {
    uint64_t state;
    uint32_t rate;

public:
    Stalls(uint64_t seed, uint32_t rate) : state(seed * 2 + 1), rate(rate) {}
    bool operator()() {
        if (!rate) return false;
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64
        return (state >> 32 & 0xffff) < rate;
    }
};

struct Device {
    VerilatedContext context;
    Vmodel model{&context};
    Elements elements;
    Stalls command_stalls{1, 0}, response_stalls{2, 0};
    uint64_t cycles = 0;

    // Everything samples what was there before the edge; the next eval() passes the elements' outputs on.
    void tick() {
        elements.sample(*model.rootp);
        model.clk = 1;
        model.eval();
        model.clk = 0;
        elements.clock();
        elements.drive(*model.rootp);
        ++cycles;
    }
};

}  // namespace

extern "C" {

Device* device_new() { return new Device; }
void device_free(Device* device) { delete device; }

uint64_t device_cycles(const Device* device) { return device->cycles; }

void device_stall(Device* device, uint64_t seed, uint32_t command_rate, uint32_t response_rate) {
    device->command_stalls = Stalls(seed, command_rate);
    device->response_stalls = Stalls(~seed, response_rate);
}

void device_reset(Device* device) {
    Vmodel& model = device->model;
    model.commands_valid = model.responses_ready = 0;
    model.rst = 1;
    device->elements.reset(true);
    model.eval();
    device->tick();
    model.rst = 0;
    device->elements.reset(false);
    model.eval();
}

// Feeds `commands` and collects `responses` until `wanted` of these are there or `limit` cycles have passed.
// `taken` and `got` are how many words went in and came out.
void device_run(Device* device, const uint32_t* commands, uint64_t count, uint32_t* responses, uint64_t wanted,
                uint64_t limit, uint64_t* taken, uint64_t* got) {
    Vmodel& model = device->model;
    uint64_t in = 0, out = 0;
    bool offered = false;
    for (; limit && out < wanted; --limit) {
        // A word that was offered stays until it is taken.
        offered = in < count && (offered || !device->command_stalls());
        model.commands_valid = offered;
        model.commands_payload = offered ? commands[in] : 0;
        model.responses_ready = !device->response_stalls();
        model.eval();
        if (offered && model.commands_ready) ++in, offered = false;
        if (model.responses_valid && model.responses_ready) responses[out++] = model.responses_payload;
        device->tick();
    }
    *taken = in;
    *got = out;
}
}
