"""Claims: `import weft` costs no more than `import torch` (and nothing by itself); `weft --help` under 0.5 s of CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import compare_ab, write_result

WEFT = str(Path(sys.executable).with_name("weft"))
EVERYTHING = "import weft; [getattr(weft, name) for name in weft.__all__]"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def python(code: str) -> None:
    run(sys.executable, "-c", code)


if __name__ == "__main__":
    labels = ("import weft", "import torch")
    lazy = compare_ab("import", lambda: python("import weft"), lambda: python("import torch"), labels=labels)
    labels = ("import weft and all public names", "import torch")
    names = compare_ab("public names", lambda: python(EVERYTHING), lambda: python("import torch"), labels=labels)
    labels = ("weft --help", "python -c pass")
    help_ = compare_ab("help", lambda: run(WEFT, "--help"), lambda: python("pass"), labels=labels)
    write_result("import_time", {"figures": [lazy, names, help_]})
