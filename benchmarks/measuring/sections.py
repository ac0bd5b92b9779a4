"""A benchmark of several sections: each runs in a process of its own and keeps its rows, which make the page."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark measures, and how its page reads."""

    script: str  #: file of the command
    package: str  #: holds a module for each section, with ``rows(quick)``
    description: str
    results: Path  #: where the rows are kept, unless the command line says otherwise
    titles: Mapping[str, str]  #: heading of each section, in order
    introduction: str  #: head of the page
    notes: Mapping[str, str] = field(default_factory=dict)  #: what a section's figures mean
    ignored_warnings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def main(self, arguments: list[str] | None = None) -> int:
        """Run what the command line asks for; return the exit status."""
        options = self._parser().parse_args(arguments)
        if options.section:
            self._run_section(options)
            return 0
        if not options.report:
            for section in options.sections:
                print(f"== {section}", flush=True)
                command = [sys.executable, self.script, "--section", section, "--results", str(options.results)]
                environment = {**os.environ, **self.environment}
                subprocess.run([*command, "--quick"] if options.quick else command, check=True, env=environment)
        text = self.page(options.results)
        if options.report:
            options.report.write_text(text)
            print(f"wrote {options.report}")
        else:
            print(text)
        return 0

    def page(self, results: Path) -> str:
        """Return the page in Markdown, from the rows of the sections that were run."""
        from measuring.machine import table

        parts = [self.introduction]
        for section, title in self.titles.items():
            path = results / f"{section}.json"
            if not path.exists():
                continue
            content = json.loads(path.read_text())
            quick = " (quick: small sizes)" if content["quick"] else ""
            note = [self.notes[section]] if section in self.notes else []
            parts += [f"## {title}{quick}", *note, f"{content['machine']}.", table(content["rows"])]
        return "\n\n".join(parts) + "\n"

    def _run_section(self, options: argparse.Namespace) -> None:
        from measuring.machine import describe

        for message in self.ignored_warnings:
            warnings.filterwarnings("ignore", message=message)
        rows = []
        for row in importlib.import_module(f"{self.package}.{options.section}").rows(quick=options.quick):
            rows.append(row)
            target = f"  (target {row['target']})" if row["target"] else ""
            print(f"  {row['what']}: {row['value']}{target}", flush=True)
        options.results.mkdir(parents=True, exist_ok=True)
        content = {"section": options.section, "quick": options.quick, "machine": describe(), "rows": rows}
        (options.results / f"{options.section}.json").write_text(json.dumps(content, indent=1))

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sections = list(self.titles)
        parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
        parser.add_argument("--section", choices=sections, help=argparse.SUPPRESS)
        parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
        parser.add_argument("--results", type=Path, default=self.results, help="where the rows are kept (%(default)s)")
        parser.add_argument("--report", type=Path, help="write the page from the rows that are there, and run nothing")
        return parser
