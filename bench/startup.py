"""How long `opsin --help` and `import opsin` take, against an interpreter that does nothing.

Every way is a process of its own, so all pay for starting Python. `import torch` is there to show what opsin's command
would take if it did not import heavy packages late. The script fails when `import opsin` imports torch.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn

from opsin.runtime import resolve_device, resolve_precision


def process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True)


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=20)
    process("-c", "import opsin, sys; sys.exit('torch' in sys.modules)")()
    ways = {
        "python -c pass": process("-c", "pass"),
        "import opsin": process("-c", "import opsin"),
        "opsin --help": process("-m", "opsin", "--help"),
        "import torch": process("-c", "import torch"),
    }
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(resolve_precision("auto", resolve_device()))
    print_timings(timings, "python -c pass", unit="starts/s")


if __name__ == "__main__":
    main()
