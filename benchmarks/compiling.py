"""Grown models under torch.compile: step time, compile time, growth events, rewriting and memory. Ratios in one run.

    python benchmarks/compiling.py                                   # everything; about 20 minutes on two quiet cores
    python benchmarks/compiling.py --sections rewriting memory       # some of it
    python benchmarks/compiling.py --quick                           # small sizes, to see that it works
    python benchmarks/compiling.py --report docs/compile_benchmark.md

Each section runs in a process of its own and writes its rows to runs/compiling/. Extra: timm. Scores are random
numbers here: what an analysis costs is measured by benchmarks/curvature.py.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

RESULTS = Path("runs/compiling")
SECTIONS = ("step_time", "compile_time", "events", "rewriting", "memory")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.section:
        return _run_section(options)
    if not options.report:
        for section in options.sections:
            print(f"== {section}", flush=True)
            command = [sys.executable, __file__, "--section", section, "--results", str(options.results)]
            quiet = {**os.environ, "KINETO_LOG_LEVEL": "5"}
            subprocess.run([*command, "--quick"] if options.quick else command, check=True, env=quiet)
    from compile_speed.report import page

    text = page(options.results, SECTIONS)
    if options.report:
        options.report.write_text(text)
        print(f"wrote {options.report}")
    else:
        print(text)
    return 0


def _run_section(options: argparse.Namespace) -> int:
    from curvature_engine.machine import describe

    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    module = importlib.import_module(f"compile_speed.{options.section}")
    rows = []
    for row in module.rows(quick=options.quick):
        rows.append(row)
        print(f"  {row['what']}: {row['value']}" + (f"  (target {row['target']})" if row["target"] else ""), flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"section": options.section, "quick": options.quick, "machine": describe(), "rows": rows}
    (options.results / f"{options.section}.json").write_text(json.dumps(content, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("--report", type=Path, help="write the page from the rows that are there, and run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
