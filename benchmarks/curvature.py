"""The curvature engine: what its scores cost, how exact they are, and how stable they are. Ratios are within one run.

    python benchmarks/curvature.py                                   # everything; about an hour on two quiet cores
    python benchmarks/curvature.py --sections throughput solver      # some of it
    python benchmarks/curvature.py --quick                           # small sizes, to see that it works
    python benchmarks/curvature.py --report docs/curvature_benchmark.md

Each section runs in a process of its own and writes its rows to runs/curvature/. Extras: timm, data, spectra; the
comparison takes what is installed of hessian-eigenthings and PyHessian.
"""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

RESULTS = Path("runs/curvature")
SECTIONS = ("cost", "memory", "event", "solver", "throughput", "libraries", "scaling", "stability")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.section:
        return _run_section(options)
    if not options.report:
        for section in options.sections:
            print(f"== {section}", flush=True)
            command = [sys.executable, __file__, "--section", section, "--results", str(options.results)]
            subprocess.run([*command, "--quick"] if options.quick else command, check=True)
    from curvature_engine.report import page

    text = page(options.results, SECTIONS)
    if options.report:
        options.report.write_text(text)
        print(f"wrote {options.report}")
    else:
        print(text)
    return 0


def _run_section(options: argparse.Namespace) -> int:
    import importlib

    warnings.filterwarnings("ignore", message="scores from fewer than")
    warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated")
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    module = importlib.import_module(f"curvature_engine.{options.section}")
    rows = []
    for row in module.rows(quick=options.quick):
        rows.append(row)
        print(f"  {row['what']}: {row['value']}" + (f"  (target {row['target']})" if row["target"] else ""), flush=True)
    from curvature_engine.machine import describe

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
