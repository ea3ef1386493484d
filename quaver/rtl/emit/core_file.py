"""What build tools want beside a file of Verilog: a core description for FuseSoC, and a list of files."""

from __future__ import annotations

import json
from importlib.metadata import version


def core_file(name: str, verilog: str, description: str) -> str:
    """FuseSoC's description (CAPI 2) of the core whose top module is `name`, in the file called `verilog`."""
    quoted = json.dumps  # every JSON string is one of YAML
    return f"""CAPI=2:
name: quaver:generated:{name}:{version("quaver")}
description: {quoted(description)}

filesets:
  rtl:
    files:
      - {quoted(verilog)}
    file_type: verilogSource

targets:
  default: &default
    filesets: [rtl]
    toplevel: {name}
  lint:
    <<: *default
    flow: lint
    flow_options:
      tool: verilator
"""


def file_list(verilog: str) -> str:
    """What -f of Verilator and most simulators reads, -c of Icarus."""
    return f"{verilog}\n"
