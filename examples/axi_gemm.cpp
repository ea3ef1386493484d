// A GEMM on the accelerator behind AXI, one tile: C = A·B in FP8 operands and FP16 sums, codes in and codes out.
//
//   quaver verilog axi_accelerator --rows 4 --columns 4 --update none --header quaver_commands.h -o axi_accelerator.v
//   verilator --cc --exe --build axi_accelerator.v examples/axi_gemm.cpp -CFLAGS "-I$PWD" --top-module axi_accelerator
//   obj_dir/Vaxi_accelerator < codes
//
// Standard input: M K N, then the codes of A, row by row, and of B, row by row, in decimal. M is at most the
// array's rows, N its columns times interleave, K its depth; what is missing of a tile is filled up with zeros.
// Standard output: the codes of C, a row a line. examples/axi_gemm.py makes the input and checks the output.
//
// On a system on chip the three functions that move words, `read`, `write` and `command`, are loads and stores to
// the registers and a DMA to the streams; everything else stays as it is.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "Vaxi_accelerator.h"
#include "quaver_commands.h"
#include "verilated.h"

using Words = std::vector<uint32_t>;

static Vaxi_accelerator axi;

// Inputs change after a rising edge, as they would behind registers; outputs are read before the next.
static void tick() {
    axi.aclk = 0;
    axi.eval();
    axi.aclk = 1;
    axi.eval();
}

[[noreturn]] static void fail(const char* why, uint32_t word) {
    std::fprintf(stderr, "axi_gemm: %s: 0x%08x\n", why, word);
    std::exit(1);
}

// A register's value, by AXI4-Lite.
static uint32_t read(uint32_t address) {
    axi.s_axi_araddr = address;
    axi.s_axi_arvalid = 1;
    axi.s_axi_rready = 1;
    axi.eval();
    while (!axi.s_axi_arready) tick();
    tick();
    axi.s_axi_arvalid = 0;
    axi.eval();
    while (!axi.s_axi_rvalid) tick();
    const uint32_t value = axi.s_axi_rdata, answer = axi.s_axi_rresp;
    tick();
    if (answer != QUAVER_AXI_OKAY) fail("no such register", address);
    return value;
}

static void write(uint32_t address, uint32_t value) {
    axi.s_axi_awaddr = address;
    axi.s_axi_wdata = value;
    axi.s_axi_wstrb = 0xf;
    axi.s_axi_awvalid = axi.s_axi_wvalid = axi.s_axi_bready = 1;
    axi.eval();
    while (axi.s_axi_awvalid || axi.s_axi_wvalid) {
        const bool address_taken = axi.s_axi_awready, word_taken = axi.s_axi_wready;
        tick();
        if (address_taken) axi.s_axi_awvalid = 0;
        if (word_taken) axi.s_axi_wvalid = 0;
        axi.eval();
    }
    while (!axi.s_axi_bvalid) tick();
    const uint32_t answer = axi.s_axi_bresp;
    tick();
    if (answer != QUAVER_AXI_OKAY) fail("not to be written", address);
}

// Sends one command by AXI4-Stream; the words of its response, of one packet, without the header.
static Words command(uint32_t opcode, const Words& words) {
    Words sent{quaver_command_header(words.size(), opcode)};
    sent.insert(sent.end(), words.begin(), words.end());
    Words got;
    size_t next = 0;
    bool last = false;
    axi.m_axis_tready = 1;
    while (next < sent.size() || !last) {
        axi.s_axis_tvalid = next < sent.size();
        axi.s_axis_tdata = next < sent.size() ? sent[next] : 0;
        axi.eval();
        const bool taken = axi.s_axis_tvalid && axi.s_axis_tready;
        if (axi.m_axis_tvalid) {
            got.push_back(axi.m_axis_tdata);
            last = axi.m_axis_tlast;
        }
        tick();
        next += taken;
    }
    if (quaver_response_header_opcode(got[0]) != opcode || quaver_response_header_status(got[0]) != QUAVER_STATUS_OK)
        fail("the command was refused", got[0]);
    got.erase(got.begin());
    return got;
}

// Puts codes of 8 bits into a group of words, the lowest slot first.
static void pack(Words& words, const std::vector<uint32_t>& codes) {
    const uint32_t slots = quaver_slots_per_word(8);
    for (size_t i = 0; i < codes.size(); ++i) {
        if (i % slots == 0) words.push_back(0);
        words.back() |= codes[i] << 8 * (i % slots);
    }
}

int main() {
    uint32_t M, K, N;
    if (std::scanf("%u %u %u", &M, &K, &N) != 3) fail("no M K N", 0);
    const auto matrix = [](uint32_t size) {
        std::vector<uint32_t> codes(size);
        for (uint32_t& code : codes)
            if (std::scanf("%u", &code) != 1) fail("a code is missing", 0);
        return codes;
    };
    const auto a = matrix(M * K), b = matrix(K * N);

    axi.aresetn = 0;
    for (int i = 0; i < 4; ++i) tick();
    axi.aresetn = 1;
    tick();

    if (read(QUAVER_REGISTER_IDENTITY) != QUAVER_IDENTITY) fail("no accelerator of Quaver", read(QUAVER_REGISTER_IDENTITY));
    if (read(QUAVER_REGISTER_VERSION) != QUAVER_VERSION) fail("another version", read(QUAVER_REGISTER_VERSION));
    const uint32_t rows = read(QUAVER_REGISTER_SIZE) & 0xffff, columns = read(QUAVER_REGISTER_SIZE) >> 16;
    const uint32_t lanes = read(QUAVER_REGISTER_MEMORY) & 0xffff, depth = read(QUAVER_REGISTER_MEMORY) >> 16;
    if (M > rows || N > columns * lanes || K > depth) fail("more than a tile; rows and columns are", rows | columns << 16);

    // A by row banks: one k of all rows a group. B by column banks: one lane of one k of all columns a group.
    Words load_a{quaver_load_arguments(0, 0, QUAVER_OPERAND_A)}, load_b{quaver_load_arguments(0, 0, QUAVER_OPERAND_B)};
    for (uint32_t k = 0; k < K; ++k) {
        std::vector<uint32_t> group(rows, 0);
        for (uint32_t i = 0; i < M; ++i) group[i] = a[i * K + k];
        pack(load_a, group);
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            group.assign(columns, 0);
            for (uint32_t c = 0; c < columns && lane * columns + c < N; ++c) group[c] = b[k * N + lane * columns + c];
            pack(load_b, group);
        }
    }
    command(QUAVER_OPCODE_LOAD, load_a);
    command(QUAVER_OPCODE_LOAD, load_b);
    const Words results =
        command(QUAVER_OPCODE_GEMM, {quaver_gemm_arguments(K, 0, 0, 1, 1), quaver_tile_arguments(1, 1)});

    // Results of 16 bits: one lane of one row a group, from the last row up.
    const uint32_t slots = quaver_slots_per_word(16), group = (columns + slots - 1) / slots;
    for (uint32_t i = 0; i < M; ++i)
        for (uint32_t j = 0; j < N; ++j) {
            const uint32_t lane = j / columns, c = j % columns;
            const uint32_t word = results[((rows - 1 - i) * lanes + lane) * group + c / slots];
            std::printf("%u%c", word >> 16 * (c % slots) & 0xffff, j + 1 < N ? ' ' : '\n');
        }

    // A command that is refused leaves its header in ERROR until ones are written there.
    if (read(QUAVER_REGISTER_ERROR) != 0) fail("ERROR", read(QUAVER_REGISTER_ERROR));
    write(QUAVER_REGISTER_ERROR, 0xffffffff);
    const uint32_t begun = read(QUAVER_REGISTER_COMMANDS), ended = read(QUAVER_REGISTER_RESPONSES);
    if (begun != 3 || ended != 3 || read(QUAVER_REGISTER_STATUS) != 0) fail("commands begun", begun);
}
