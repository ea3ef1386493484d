"""The accelerator behind AXI4-Lite and AXI4-Stream, with their usual port names."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Cat, ClockDomain, Const, DomainRenamer, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import MAGIC, VERSION, CommandHeader, ResponseHeader, Status

#: What the first register reads: "QUAV", the first letter in the lowest byte.
IDENTITY = int.from_bytes(b"QUAV", "little")
#: Of the registers: 4 KiB, the least that an interconnect maps.
ADDRESS_BITS = 12


class Register(IntEnum):
    """Byte addresses of the registers, 32 bits each."""

    IDENTITY = 0x00
    VERSION = 0x04
    SIZE = 0x08
    MEMORY = 0x0C
    CONTROL = 0x10
    STATUS = 0x14
    ERROR = 0x18
    COMMANDS = 0x1C
    RESPONSES = 0x20


class Answer(IntEnum):
    """BRESP and RRESP."""

    OKAY = 0
    SLVERR = 2


#: AXI4-Lite and AXI4-Stream, as a manager and a transmitter see them.
AXI_LITE = wiring.Signature(
    {
        "awaddr": Out(ADDRESS_BITS),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(32),
        "wstrb": Out(4),
        "wvalid": Out(1),
        "wready": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "araddr": Out(ADDRESS_BITS),
        "arvalid": Out(1),
        "arready": In(1),
        "rdata": In(32),
        "rresp": In(2),
        "rvalid": In(1),
        "rready": Out(1),
    }
)
_STREAM = {"tdata": Out(32), "tvalid": Out(1), "tready": In(1)}
AXI_STREAM = wiring.Signature(_STREAM)
AXI_STREAM_OF_PACKETS = wiring.Signature(_STREAM | {"tlast": Out(1)})


class AxiAccelerator(wiring.Component):
    """An `Accelerator` as a core for a system on chip.

    Parameters
    ----------
    accelerator
        What is inside.

    ======= === =================================================================================
    aclk    in  clock of everything
    aresetn in  reset of everything, synchronous, active low
    s_axi   in  AXI4-Lite, 32 bits: the registers that docs/command_stream.md lists
    s_axis  in  AXI4-Stream, 32 bits: the command stream of `quaver.rtl.commands`
    m_axis  out AXI4-Stream, 32 bits: its responses; each is one packet, which ends with TLAST
    ======= === =================================================================================

    ====== ========= ==== ===========================================================================
    offset register  may  bits
    ====== ========= ==== ===========================================================================
    0x00   IDENTITY  read 0x56415551, the letters QUAV
    0x04   VERSION   read of the command stream
    0x08   SIZE      read 15…0 rows, 31…16 columns of processing elements
    0x0C   MEMORY    read 15…0 outputs that each of them interleaves, 31…16 `depth` of the memory
    0x10   CONTROL   both 0: reset, as long as it is 1
    0x14   STATUS    read 0: busy, a command has begun whose response has not been taken whole
    0x18   ERROR     both header of the first response that refused a command since ERROR was 0:
                          31…24 opcode, 23…16 status; writing ones clears those bits
    0x1C   COMMANDS  read how many began since a reset, modulo 2**32
    0x20   RESPONSES read how many ended since a reset, modulo 2**32
    ====== ========= ==== ===========================================================================

    A write to one that may only be read, and every access to another address, is answered with SLVERR and
    does nothing. The two lowest bits of an address are not looked at; WSTRB names the bytes that are written.
    A read is answered in the next cycle, a write two cycles after the later of its address and data.

    CONTROL.reset drops what is under way: commands that come meanwhile are taken and forgotten. What already
    stands at m_axis stays until it is taken, as AXI asks; a response cut short gets one more word, 0 with
    TLAST, so that no packet remains open. To start anew: set reset, end the transfer to s_axis, take packets
    until STATUS is 0, clear reset. ERROR survives it, but not aresetn.

    One word a cycle in each direction, two words of buffer in each: no path leads from an input to an output
    but through a register.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        super().__init__(
            {
                "aclk": In(1),
                "aresetn": In(1),
                "s_axi": In(AXI_LITE),
                "s_axis": In(AXI_STREAM),
                "m_axis": Out(AXI_STREAM_OF_PACKETS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reset = Signal()
        busy = Signal()
        error = Signal(32)
        commands = Signal(32)
        responses = Signal(32)
        m.domains.sync = sync = ClockDomain()
        m.domains.core = core = ClockDomain()
        m.d.comb += [
            sync.clk.eq(self.aclk),
            sync.rst.eq(~self.aresetn),
            core.clk.eq(self.aclk),
            core.rst.eq(~self.aresetn | reset),
        ]
        self._registers(m, reset, busy, error, commands, responses)

        m.submodules.accelerator = DomainRenamer("core")(accelerator := self.accelerator)
        m.submodules.entrance = entrance = SyncFIFO(width=32, depth=2)
        m.submodules.exit = exit_ = SyncFIFO(width=33, depth=2)
        into, out = accelerator.commands, accelerator.responses

        # Commands, and where they begin.
        left_in = Signal(16)
        command = CommandHeader(into.payload)
        m.d.comb += [
            entrance.w_data.eq(self.s_axis.tdata),
            entrance.w_en.eq(self.s_axis.tvalid),
            self.s_axis.tready.eq(entrance.w_rdy),
            into.payload.eq(entrance.r_data),
            into.valid.eq(entrance.r_rdy),
            entrance.r_en.eq(into.ready | reset),
        ]
        with m.If(into.valid & into.ready):
            m.d.core += left_in.eq(left_in - 1)
            with m.If(left_in == 0):
                m.d.core += commands.eq(commands + 1)
                m.d.core += left_in.eq(Mux(command.magic == MAGIC, command.length, 0))

        # Responses, and where they end. A packet is open when its header has gone to the exit and its end has
        # not; that `left_out` does not know of it means that a reset has cut it.
        left_out = Signal(16)
        response = ResponseHeader(out.payload)
        last = Signal()
        is_open = Signal()
        cut = Signal()
        m.d.comb += [
            last.eq(Mux(left_out == 0, response.length == 0, left_out == 1)),
            cut.eq(is_open & (left_out == 0)),
            exit_.w_data.eq(Mux(cut, Const(1 << 32, 33), Cat(out.payload, last))),
            exit_.w_en.eq(cut | out.valid),
            out.ready.eq(exit_.w_rdy & ~cut),
            Cat(self.m_axis.tdata, self.m_axis.tlast).eq(exit_.r_data),
            self.m_axis.tvalid.eq(exit_.r_rdy),
            exit_.r_en.eq(self.m_axis.tready),
            busy.eq((commands != responses) | is_open | exit_.r_rdy),
        ]
        with m.If(exit_.w_en & exit_.w_rdy):
            m.d.sync += is_open.eq(~exit_.w_data[-1])
        with m.If(out.valid & out.ready):
            m.d.core += left_out.eq(left_out - 1)
            m.d.core += responses.eq(responses + last)
            with m.If(left_out == 0):
                m.d.core += left_out.eq(response.length)
                with m.If((response.status != Status.OK) & (error == 0)):
                    m.d.sync += error.eq(response)
        return m

    def _registers(
        self, m: Module, reset: Signal, busy: Signal, error: Signal, commands: Signal, responses: Signal
    ) -> None:
        """The AXI4-Lite side."""
        axi, geometry = self.s_axi, self.accelerator.geometry
        values = {
            Register.IDENTITY: IDENTITY,
            Register.VERSION: VERSION,
            Register.SIZE: geometry.rows | geometry.columns << 16,
            Register.MEMORY: geometry.interleave | geometry.depth << 16,
            Register.CONTROL: reset,
            Register.STATUS: busy,
            Register.ERROR: error,
            Register.COMMANDS: commands,
            Register.RESPONSES: responses,
        }

        m.d.comb += axi.arready.eq(~axi.rvalid)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [axi.rvalid.eq(1), axi.rdata.eq(0), axi.rresp.eq(Answer.SLVERR)]
            with m.Switch(axi.araddr[2:]):
                for address, value in values.items():
                    with m.Case(address >> 2):
                        m.d.sync += [axi.rdata.eq(value), axi.rresp.eq(Answer.OKAY)]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += axi.rvalid.eq(0)

        # Address and data come in any order; each waits for the other.
        address = Signal.like(axi.awaddr)
        word = Signal(32)
        strobes = Signal(4)
        has_address = Signal()
        has_word = Signal()
        m.d.comb += [axi.awready.eq(~has_address), axi.wready.eq(~has_word)]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), address.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_word.eq(1), word.eq(axi.wdata), strobes.eq(axi.wstrb)]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(has_address & has_word & ~axi.bvalid):
            m.d.sync += [has_address.eq(0), has_word.eq(0), axi.bvalid.eq(1), axi.bresp.eq(Answer.OKAY)]
            ones = word & Cat(strobe.replicate(8) for strobe in strobes)
            with m.Switch(address[2:]):
                with m.Case(Register.CONTROL >> 2), m.If(strobes[0]):
                    m.d.sync += reset.eq(word[0])
                with m.Case(Register.ERROR >> 2):
                    m.d.sync += error.eq(error & ~ones)
                with m.Default():
                    m.d.sync += axi.bresp.eq(Answer.SLVERR)
