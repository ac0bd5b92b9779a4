"""The census: which models trace, grow, train, compile, and come back from a file.

    python benchmarks/census.py                           # all: timm's families, torchvision, Hugging Face, packages
    python benchmarks/census.py --only timm --resume      # one suite; go on where an earlier run ended
    python benchmarks/census.py --models 'timm:resnet*'   # some of them
    python benchmarks/census.py --sample                  # the 24 that the tests run
    python benchmarks/census.py --report docs/census.md --results docs/census.jsonl   # write the page from its data
    python benchmarks/census.py --results docs/census.jsonl --resume                  # go on with what it lacks
    python benchmarks/census.py --deepen                  # which can be deepened, into runs/census/deepening.jsonl
    python benchmarks/census.py --deepen --report docs/deepening.md --results docs/deepening.jsonl
    python benchmarks/census.py --select                  # choose the smallest model of each timm family anew

Each model runs in a process of its own with limits on time and memory. Results are JSON lines, one a model; what failed
is told by stage, exception and message.
"""

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

RESULTS = Path("runs/census")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    options.results = options.results or RESULTS / ("deepening.jsonl" if options.deepen else "results.jsonl")
    if options.select:
        from model_census.selection import select

        select()
        return 0
    if options.report:
        from model_census.results import read

        if options.deepen:
            from model_census.deepening_report import write_report
        else:
            from model_census.report import write_report
        write_report(read(options.results), options.report)
        print(f"wrote {options.report} from {options.results}")
        return 0
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("timm", "torchvision", "hf", "packages"), help="one suite")
    parser.add_argument("--models", action="append", metavar="PATTERN", help="models, as suite:name; may be repeated")
    parser.add_argument("--sample", action="store_true", help="the fixed sample that the tests run")
    parser.add_argument("--resume", action="store_true", help="leave out models that the results have already")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try those that failed once more")
    parser.add_argument("--deepen", action="store_true", help="ask which models can be deepened, not which can grow")
    parser.add_argument("--results", type=Path, help="JSON lines, appended to (in runs/census)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (%(default)s)")
    parser.add_argument("--seconds", type=float, default=900.0, help="time limit of a model (%(default)s)")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="memory limit of a model (%(default)s)")
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile (%(default)s)")
    parser.add_argument("--report", type=Path, metavar="PAGE", help="write the page from the results, and run nothing")
    parser.add_argument("--select", action="store_true", help="choose timm's models anew, and run nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    from model_census.candidates import candidates, one_of_each_family
    from model_census.console import run
    from model_census.processes import Limits
    from model_census.results import read
    from model_census.sample import sample

    listed = one_of_each_family if options.deepen else candidates
    chosen = sample() if options.sample else listed(options.only)
    if options.models:
        chosen = [item for item in chosen if any(fnmatchcase(item.key, pattern) for pattern in options.models)]
    known = read(options.results)
    if known and not options.resume:
        print(f"{options.results} exists: go on with --resume, or name another file with --results", file=sys.stderr)
        return 2
    chosen = [
        item
        for item in chosen
        if item.key not in known or (options.retry_failed and known[item.key].failure is not None)
    ]
    way = "deepening" if options.deepen else "stages"
    limits = Limits(options.seconds, options.gigabytes, options.threads)
    return run(chosen, limits, jobs=options.jobs, backend=options.backend, results=options.results, way=way)


if __name__ == "__main__":
    sys.exit(main())
