"""The study: does growing pay, where, and when.

    python benchmarks/study run                         # what is not recorded yet; goes on where it was stopped
    python benchmarks/study run --tasks text            # one task
    python benchmarks/study run --records runs/again --tasks text --arms 'scratch 8'    # repeat a row of the page
    python benchmarks/study single --arms 'half 1-2-4-8*'        # the same networks one by one, by fxgrow's public API
    python benchmarks/study status                      # what is done and what is left
    python benchmarks/study saddles                     # least eigenvalues while a network trains and grows
    python benchmarks/study places                      # what scores say, where places of growth are tried
    python benchmarks/study planted                     # planted depth: does a score find it, and does it pay
    python benchmarks/study report                      # write docs/results.md from the records, and what fxgrow claims

Records are benchmarks/study/records/*.jsonl, one line for each task, arm, learning rate and seed. To run it for hours
beside other work: nice -n 19 setsid python benchmarks/study run >runs/study/log.txt 2>&1 &
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    import torch

    from study.choosing import NoMatchError
    from study.jsonl import BrokenLineError

    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 1_000  # one graph for each architecture
    try:
        _do(options)
    except (NoMatchError, BrokenLineError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    return 0


def _do(options: argparse.Namespace) -> None:
    from study.choosing import chosen, matching, with_rates
    from study.plan import experiments
    from study.records import Records
    from study.snapshots import Snapshots

    records = Records(options.records)
    if options.what == "run":
        from study.repeats import summary
        from study.running_all import run_all

        asked = chosen(experiments(), options.tasks, options.arms)
        run_all(with_rates(asked), records, Snapshots.of(records), gated=options.arms == ["*"])
        print(summary(asked, records))
    elif options.what == "single":
        from study.repeats import alone

        for line in alone(chosen(experiments(), options.tasks, options.arms), records, options.seeds):
            print(line, flush=True)
    elif options.what == "status":
        from study.running_all import status

        print(status(chosen(experiments(), options.tasks, options.arms), records))
    elif options.what == "saddles":
        from study.saddles import run

        run(options.records / "saddles" / "mnist1d-mlp.jsonl")
    elif options.what == "places":
        from study import places
        from study.groups import PLACED

        tasks = matching("--tasks", options.tasks, list(PLACED))
        places.run(sorted(tasks), records, Snapshots.of(records))
    elif options.what == "planted":
        from study.planted.study import run

        run(options.records / "planted" / "planted.jsonl")
    else:
        from study.claims import write
        from study.plots import draw, draw_saddles
        from study.report import page

        target = Path(options.page)
        folder = target.parent / "results"
        target.write_text(page(records, draw(records, folder), draw_saddles(records.folder, folder)))
        write(records)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "single", "status", "report", "saddles", "planted", "places"))
    parser.add_argument("--tasks", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--arms", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--seeds", type=int, default=3, help="of single networks, for each arm (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument(
        "--records", type=Path, default=Path(__file__).parent / "records", help="folder; a new one repeats rows"
    )
    parser.add_argument("--page", default="docs/results.md", help="where the page is written (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
